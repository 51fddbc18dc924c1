"""Labels: given, recovered from the last layer, or optimized jointly with the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from leakgauge.core import Observation, trainable
from leakgauge.federated.local_steps import as_one_gradient
from leakgauge.federated.training import stateless


class Labels(Protocol):
    """How the candidate's targets come about."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Why this rule cannot be used here; None where it can."""
        ...

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """What `decode` turns into targets: fixed, or variables where `free`."""
        ...

    @property
    def free(self) -> bool:
        """Whether the descent moves them."""
        ...

    def decode(self, variables: Tensor) -> Tensor:
        """Targets (B,) or (B, K)."""
        ...


def head(observation: Observation) -> tuple[str, nn.Module] | None:
    """The last linear layer with one output for each class, by name; None where the model has none."""
    found: tuple[str, nn.Module] | None = None
    for name, module in observation.model.named_modules():
        classifies = isinstance(module, nn.Linear) and module.out_features == observation.classes
        if classifies and f"{name}.weight" in observation.update.tensors:
            found = (name, module)
    return found


@dataclass(frozen=True)
class Joint:
    """Logits (B, K) optimized beside the inputs; the target is their softmax (Zhu et al. 2019, algorithm 1).

    They start from spread * N(0, 1): the paper's spread is 1; with 0 every class starts alike.
    """

    spread: float = 1.0

    @property
    def free(self) -> bool:
        return True

    def inapplicable(self, observation: Observation) -> str | None:
        if observation.classes is None:
            return "joint labels need a classification loss; grant the targets instead"
        return None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        assert observation.classes is not None, "inapplicable() refuses this"
        like = next(iter(observation.update.tensors.values()))
        shape = (observation.batch_size, observation.classes)
        return self.spread * torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        return variables.softmax(-1)


@dataclass(frozen=True)
class Affine(Joint):
    """Targets (B, K) optimized beside the inputs as numbers that sum to 1, of any sign; from 1 / K each. Ours.

    The update is linear in them. Logits of a target that is nearly certain move nothing any more; these do.
    """

    spread: float = 0.0

    def decode(self, variables: Tensor) -> Tensor:
        return variables - variables.mean(-1, keepdim=True) + 1 / variables.shape[-1]


@dataclass(frozen=True, eq=False)
class Read:
    """Labels (B,) that were read from the update, each that of its example."""

    labels: Tensor

    @property
    def free(self) -> bool:
        return False

    def inapplicable(self, observation: Observation) -> str | None:
        return None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        device = next(iter(observation.update.tensors.values())).device
        return self.labels.to(device)

    def decode(self, variables: Tensor) -> Tensor:
        return variables


@dataclass(frozen=True)
class LastLayer:
    """The class whose row of the last weight's gradient sums lowest (Zhao et al. 2020, equation 4). Batch 1."""

    @property
    def free(self) -> bool:
        return False

    def inapplicable(self, observation: Observation) -> str | None:
        if observation.batch_size != 1:
            return f"reads one label from the last layer: batch {observation.batch_size} > 1"
        if head(observation) is None:
            return "the model has no last linear layer with one output for each class"
        return None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        found = head(observation)
        assert found is not None, "inapplicable() refuses this"
        rows = as_one_gradient(observation).update.tensors[f"{found[0]}.weight"].sum(dim=1)
        return rows.argmin().unsqueeze(0)

    def decode(self, variables: Tensor) -> Tensor:
        return variables


@dataclass(frozen=True)
class Known:
    """Granted labels, else granted counts, else counts estimated from the last layer's bias.

    The gradient of that bias is db = mean_j softmax_j - counts / B. The mean softmax is unknown; its
    value on inputs drawn uniformly from the domain stands for it, which is near for an untrained model.
    """

    probes: int = 32

    @property
    def free(self) -> bool:
        return False

    def inapplicable(self, observation: Observation) -> str | None:
        knowledge = observation.knowledge
        if knowledge.labels is not None or knowledge.label_counts is not None:
            return None
        found = head(observation)
        if found is None or f"{found[0]}.bias" not in observation.update.tensors:
            return (
                "labels are not granted, and the model's last layer has no bias to read them from"
            )
        return None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        knowledge = observation.knowledge
        if knowledge.labels is not None:
            return knowledge.labels
        counts = knowledge.label_counts
        if counts is None:
            counts = self.estimate(observation, generator)
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def estimate(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Counts (K,) that sum to B, the largest of B (softmax - db) taken one example at a time."""
        found = head(observation)
        assert found is not None, "inapplicable() refuses this"
        bias = as_one_gradient(observation).update.tensors[f"{found[0]}.bias"]
        unit = torch.rand((self.probes, *observation.domain.shape), generator=generator)
        with torch.no_grad():
            inputs = observation.domain.from_unit(unit.to(bias))
            output = stateless(observation.model, trainable(observation.model), inputs)
        score = observation.batch_size * (output.softmax(-1).mean(0) - bias)
        counts = torch.zeros(len(bias), dtype=torch.long, device=bias.device)
        for _ in range(observation.batch_size):
            counts[(score - counts).argmax()] += 1
        return counts

    def decode(self, variables: Tensor) -> Tensor:
        return variables
