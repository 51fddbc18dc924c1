"""Labels: given, recovered from the last layer, or optimized jointly with the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from leakgauge.core import Inapplicable, Observation, trainable, unit_shape
from leakgauge.federated.layers.targets import refused_targets, unlabeled
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.output import (
    OneLabel,
    SharedHead,
    label_of_one,
    reduction_of,
    shared_head,
    slope_of,
)


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
        like = observation.update.like
        shape = (observation.batch_size, observation.classes)
        # The search moves rows (B, K), and returns the class of each.
        rows = self.decode(like.new_zeros(shape))
        return unlabeled(observation) or refused_targets(observation, rows)

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        assert observation.classes is not None, "inapplicable() refuses this"
        like = observation.update.like
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
        device = observation.update.like.device
        return self.labels.to(device)

    def decode(self, variables: Tensor) -> Tensor:
        return variables


@dataclass(frozen=True)
class LastLayer:
    """The label of a batch of one, as the one that explains the last layer's gradient (`output.one_label`).

    Zhao et al. 2020 read it from signs. Their rule is a case of this one, and needs cross-entropy.
    """

    @property
    def free(self) -> bool:
        return False

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why the label cannot be read, in one line, or None if it can."""
        if observation.batch_size != 1:
            return f"reads one label from the last layer: batch {observation.batch_size} > 1"
        found = label_of_one(as_one_gradient(observation))
        return found.reason if isinstance(found, Inapplicable) else None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return the label (1,)."""
        found = label_of_one(as_one_gradient(observation))
        assert isinstance(found, OneLabel), "inapplicable() refuses this"
        like = observation.update.like
        return torch.tensor([found.label], device=like.device)

    def decode(self, variables: Tensor) -> Tensor:
        return variables


@dataclass(frozen=True)
class Known:
    """Granted labels, else granted counts, else counts estimated from the last layer's bias.

    db = sum_i share s(z_i, y_i) with s the own slope of an example. The mean of s over inputs drawn uniformly from the
    domain stands for the unknown s of each label, which is near for an untrained model.
    """

    probes: int = 32

    @property
    def free(self) -> bool:
        return False

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why there are no labels, in one line, or None if there are."""
        knowledge = observation.knowledge
        if knowledge.labels is not None or knowledge.label_counts is not None:
            return None
        if observation.classes is None:
            return "labels are not granted, and no loss over classes tells them"
        found = shared_head(as_one_gradient(observation))
        if isinstance(found, Inapplicable):
            return f"labels are not granted, and cannot be read: {found}"
        if found.dbias is None:
            return (
                "labels are not granted, and the model's last layer has no bias to read them from"
            )
        if slope_of(found.loss, len(found.weight)) is None:
            return "labels are not granted, and the loss takes no class labels"
        return None

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return labels (B,), in ascending order unless they are granted."""
        knowledge = observation.knowledge
        if knowledge.labels is not None:
            return knowledge.labels
        counts = knowledge.label_counts
        if counts is None:
            counts = self.estimate(observation, generator)
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def estimate(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return counts (K,) that sum to B: whole numbers near the least-squares solution, one example at a time."""
        head = shared_head(as_one_gradient(observation))
        assert not isinstance(head, Inapplicable), "inapplicable() refuses this"
        assert head.dbias is not None, "inapplicable() refuses this"
        assert observation.classes is not None, "inapplicable() refuses this"
        slope = slope_of(head.loss, len(head.weight))
        assert slope is not None, "inapplicable() refuses this"
        outputs = self.outputs(observation, head, generator)
        each = torch.stack([slope(outputs, y).mean(0) for y in range(observation.classes)])
        reduction = reduction_of(head.loss, observation.classes, width=len(head.weight))
        count = observation.batch_size
        summed = reduction is not None and reduction.divisors is None
        # The sum of own slopes, and the number of examples in the same unit.
        goal, unit = head.dbias * (1 if summed else count), float(each.norm())
        equations = torch.cat([each.T, torch.full((1, len(each)), unit).double()])
        right = torch.cat([goal, torch.tensor([unit * count]).double()])
        score = torch.linalg.pinv(equations) @ right
        counts = torch.zeros(len(each), dtype=torch.long)
        for _ in range(count):
            counts[(score - counts).argmax()] += 1
        return counts.to(observation.update.like.device)

    def outputs(
        self, observation: Observation, head: SharedHead, generator: torch.Generator
    ) -> Tensor:
        """Return logits (N, C) of inputs drawn uniformly from the domain, in float64."""
        unit = torch.rand((self.probes, *unit_shape(observation.domain)), generator=generator)
        like = next(observation.model.parameters())
        seen: list[Tensor] = []

        def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.append(head.head.features(observation.model, arguments[0]))

        hook = observation.model.get_submodule(head.head.name).register_forward_pre_hook(note)
        try:
            with torch.no_grad():
                inputs = observation.domain.from_unit(unit.to(like))
                stateless(observation.model, trainable(observation.model), inputs)
        finally:
            hook.remove()
        outputs = seen[0].double().cpu() @ head.weight.T
        return outputs if head.bias is None else outputs + head.bias

    def decode(self, variables: Tensor) -> Tensor:
        return variables
