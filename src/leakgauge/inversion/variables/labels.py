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
    SharedHead,
    label_of_one,
    reduction_of,
    shared_head,
    slope_of,
)
from leakgauge.output.one_label import Slope


class Targets(Protocol):
    """What a candidate's targets are made of."""

    @property
    def free(self) -> bool:
        """Whether the descent moves them."""
        ...

    def decode(self, variables: Tensor) -> Tensor:
        """Return targets (B,) or (B, K)."""
        ...


class ReadyLabels(Targets, Protocol):
    """Targets that can start on an observation."""

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return what `decode` turns into targets: fixed, or variables if they are `free`."""
        ...


class Labels(Targets, Protocol):
    """A rule for the candidate's targets."""

    def prepare(self, observation: Observation) -> ReadyLabels | Inapplicable:
        """Return the targets with what is read from the observation, or the reason why there are none."""
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

    def prepare(self, observation: Observation) -> Rows | Inapplicable:
        """Return rows (B, K) of variables, or the reason why the loss takes none."""
        if observation.classes is None:
            return Inapplicable(
                "joint labels need a classification loss; grant the targets instead"
            )
        like = observation.update.like
        shape = (observation.batch_size, observation.classes)
        # The search moves rows (B, K), and returns the class of each.
        rows = self.decode(like.new_zeros(shape))
        reason = unlabeled(observation) or refused_targets(observation, rows)
        return Rows(self, shape) if reason is None else Inapplicable(reason)

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


@dataclass(frozen=True)
class Rows:
    """Variables of shape (B, K) that `rule` turns into targets."""

    rule: Joint
    shape: tuple[int, int]

    @property
    def free(self) -> bool:
        return True

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        like = observation.update.like
        drawn = torch.randn(self.shape, generator=generator, dtype=torch.float32)
        return self.rule.spread * drawn.to(like)

    def decode(self, variables: Tensor) -> Tensor:
        return self.rule.decode(variables)


@dataclass(frozen=True)
class _Fixed:
    """Targets that the descent does not move."""

    @property
    def free(self) -> bool:
        return False

    def decode(self, variables: Tensor) -> Tensor:
        return variables


@dataclass(frozen=True, eq=False)
class FixedLabels(_Fixed):
    """Labels (B,) that the descent does not move: granted, or recovered from the update."""

    labels: Tensor

    def prepare(self, observation: Observation) -> FixedLabels:
        return self

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        device = observation.update.like.device
        return self.labels.to(device)


@dataclass(frozen=True)
class LastLayer(_Fixed):
    """The label of a batch of one, as the one that explains the last layer's gradient (`output.one_label`).

    Zhao et al. 2020 read it from signs. Their rule is a case of this one, and needs cross-entropy.
    """

    def prepare(self, observation: Observation) -> FixedLabels | Inapplicable:
        """Return the label (1,), or the reason why it cannot be read."""
        if observation.batch_size != 1:
            return Inapplicable(
                f"reads one label from the last layer: batch {observation.batch_size} > 1"
            )
        found = label_of_one(as_one_gradient(observation))
        if isinstance(found, Inapplicable):
            return found
        return FixedLabels(torch.tensor([found.label]))


@dataclass(frozen=True)
class Known(_Fixed):
    """Granted labels, else granted counts, else counts estimated from the last layer's bias.

    db = sum_i share s(z_i, y_i) with s the own slope of an example. The mean of s over inputs drawn uniformly from the
    domain stands for the unknown s of each label, which is near for an untrained model.
    """

    probes: int = 32

    def prepare(self, observation: Observation) -> FixedLabels | Estimated | Inapplicable:
        """Return labels (B,), in ascending order unless they are granted, or the reason why there are none."""
        knowledge = observation.knowledge
        if knowledge.labels is not None:
            return FixedLabels(knowledge.labels)
        if knowledge.label_counts is not None:
            return FixedLabels(_repeated(knowledge.label_counts))
        if observation.classes is None:
            return Inapplicable("labels are not granted, and no loss over classes tells them")
        found = shared_head(as_one_gradient(observation))
        if isinstance(found, Inapplicable):
            return Inapplicable(f"labels are not granted, and cannot be read: {found}")
        if found.dbias is None:
            return Inapplicable(
                "labels are not granted, and the model's last layer has no bias to read them from"
            )
        slope = slope_of(found.loss, len(found.weight))
        if slope is None:
            return Inapplicable("labels are not granted, and the loss takes no class labels")
        return Estimated(self.probes, observation.classes, found, found.dbias, slope)


def _repeated(counts: Tensor) -> Tensor:
    """Return labels (B,) in ascending order, of counts (K,)."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


@dataclass(frozen=True, eq=False)
class Estimated(_Fixed):
    """Labels that are estimated from the gradient of the last layer's bias, once random inputs are drawn.

    Args:
        probes: how many inputs are drawn.
        classes: number of classes.
        head: the last layer.
        dbias: the gradient (K,) of its bias.
        slope: the gradient of each example's own loss with respect to the outputs.
    """

    probes: int
    classes: int
    head: SharedHead
    dbias: Tensor
    slope: Slope

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return labels (B,) in ascending order."""
        return _repeated(self.estimate(observation, generator))

    def estimate(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return counts (K,) that sum to B: whole numbers near the least-squares solution, one example at a time."""
        outputs = self.outputs(observation, generator)
        each = torch.stack([self.slope(outputs, y).mean(0) for y in range(self.classes)])
        reduction = reduction_of(self.head.loss, self.classes, width=len(self.head.weight))
        count = observation.batch_size
        summed = reduction is not None and reduction.divisors is None
        # The sum of own slopes, and the number of examples in the same unit.
        goal, unit = self.dbias * (1 if summed else count), float(each.norm())
        equations = torch.cat([each.T, torch.full((1, len(each)), unit).double()])
        right = torch.cat([goal, torch.tensor([unit * count]).double()])
        score = torch.linalg.pinv(equations) @ right
        counts = torch.zeros(len(each), dtype=torch.long)
        for _ in range(count):
            counts[(score - counts).argmax()] += 1
        return counts.to(observation.update.like.device)

    def outputs(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return logits (N, C) of inputs drawn uniformly from the domain, in float64."""
        unit = torch.rand((self.probes, *unit_shape(observation.domain)), generator=generator)
        like = next(observation.model.parameters())
        head, seen = self.head, list[Tensor]()

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
