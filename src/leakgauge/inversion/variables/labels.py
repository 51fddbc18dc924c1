"""Labels: granted, estimated from the last layer, or optimized jointly with the inputs."""

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
    """A rule that turns variables into a candidate's targets."""

    @property
    def free(self) -> bool:
        """Whether the descent moves the targets."""
        ...

    def decode(self, variables: Tensor) -> Tensor:
        """Return targets (B,) or (B, K)."""
        ...


class ReadyLabels(Targets, Protocol):
    """Targets that can start on an observation."""

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return fixed targets, or the variables of `free` targets at the start."""
        ...


class Labels(Targets, Protocol):
    """A rule for the labels of a search."""

    def prepare(self, observation: Observation) -> ReadyLabels | Inapplicable:
        """Return the labels for this observation, or the reason why the rule is not applicable."""
        ...


@dataclass(frozen=True)
class Joint:
    r"""Labels that are optimized together with the inputs, as logits.

    .. math::

        y = \operatorname{softmax}(v), \qquad v_0 \sim \mathrm{spread} \cdot \mathcal{N}(0, 1)

    Here :math:`v` (B, K) are the variables, and :math:`v_0` their start. It needs a classification
    loss that takes class probabilities. If the labels can be recovered from the last layer, `Known`
    or `LastLayer` are more reliable.

    Args:
        spread: Standard deviation of the logits at the start, at least 0. The default is the
            paper's. With 0, all classes start with the same probability.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, algorithm 1. arXiv:1906.08935.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Joint
        >>> Joint().decode(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    spread: float = 1.0

    @property
    def free(self) -> bool:
        return True

    def prepare(self, observation: Observation) -> Rows | Inapplicable:
        """Return rows (B, K) of variables, or the reason why the loss does not take class probabilities."""
        if observation.classes is None:
            return Inapplicable("joint labels need a classification loss: grant the labels instead")
        like = observation.update.like
        shape = (observation.batch_size, observation.classes)
        # The search moves rows (B, K) and returns class indices, so the loss must take both.
        rows = self.decode(like.new_zeros(shape))
        reason = unlabeled(observation) or refused_targets(observation, rows)
        return Rows(self, shape) if reason is None else Inapplicable(reason)

    def decode(self, variables: Tensor) -> Tensor:
        return variables.softmax(-1)


@dataclass(frozen=True)
class Affine(Joint):
    r"""Labels that are optimized together with the inputs, as numbers that sum to 1. Ours.

    .. math::

        y = v - \bar{v} + \frac{1}{K}

    Here :math:`v` (B, K) are the variables, and :math:`\bar{v}` is the mean of each row. The
    numbers may be negative. The update is linear in them. The gradient of a logit almost vanishes
    when its label is nearly certain, but the gradient of these numbers does not. The rule needs a
    classification loss that takes class probabilities.

    Args:
        spread: Standard deviation of the variables at the start, at least 0. With 0, all classes
            start at 1 / K.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Affine
        >>> Affine().decode(torch.tensor([[0.5, 0.0]]))
        tensor([[0.7500, 0.2500]])
    """

    spread: float = 0.0

    def decode(self, variables: Tensor) -> Tensor:
        return variables - variables.mean(-1, keepdim=True) + 1 / variables.shape[-1]


@dataclass(frozen=True)
class Rows:
    """Variables (B, K) that `rule` turns into targets."""

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
    """Labels that the descent does not move: granted, or recovered from the update.

    Args:
        labels: Class indices (B,), or targets as the loss takes them, one for each example.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import FixedLabels
        >>> FixedLabels(torch.tensor([3, 7])).free
        False
    """

    labels: Tensor

    def prepare(self, observation: Observation) -> FixedLabels:
        return self

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        device = observation.update.like.device
        return self.labels.to(device)


@dataclass(frozen=True)
class LastLayer(_Fixed):
    """The label of a batch of one, from the gradient of the last layer.

    It is the label whose simulated gradient of this layer is the observed one. For cross-entropy, iDLG recovers
    it from the signs of the gradient alone.

    References:
        Zhao, Mopuri, Bilen. iDLG: Improved Deep Leakage from Gradients. 2020. arXiv:2001.02610.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import LastLayer
        >>> observation = lg.examples.observation(batch_size=1, threat=lg.Server())
        >>> LastLayer().prepare(observation).labels
        tensor([0])
    """

    def prepare(self, observation: Observation) -> FixedLabels | Inapplicable:
        """Return the label (1,), or the reason why it cannot be recovered."""
        if observation.batch_size != 1:
            return Inapplicable(
                f"recovers one label from the last layer: batch {observation.batch_size} > 1"
            )
        found = label_of_one(as_one_gradient(observation))
        if isinstance(found, Inapplicable):
            return found
        return FixedLabels(torch.tensor([found.label]))


@dataclass(frozen=True)
class Known(_Fixed):
    r"""Labels from the threat model if it grants them, else an estimate from the last layer's bias.

    The rule takes the first of three sources: granted labels, granted label counts, or an estimate
    of the counts :math:`n_y`. For a loss that is a mean over the batch, the estimate solves

    .. math::

        \sum_y n_y \, \bar{s}_y = B \, \frac{\partial L}{\partial b}, \qquad \sum_y n_y = B

    by least squares, rounded to whole numbers. Here :math:`\partial L / \partial b` is the gradient
    of the last layer's bias. Each :math:`\bar{s}_y` is the mean slope of one example's loss at its
    outputs, if its label is :math:`y`. Inputs drawn uniformly from the domain stand for the private
    ones. That is accurate for an untrained model.

    Args:
        probes: Number of drawn inputs, at least 1.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import Known
        >>> observation = lg.examples.observation(batch_size=3)
        >>> Known().prepare(observation).labels.sort().values
        tensor([0, 1, 2])
    """

    probes: int = 32

    def prepare(self, observation: Observation) -> FixedLabels | Estimated | Inapplicable:
        """Return labels (B,), or the reason why there are none.

        The labels are in ascending order unless they are granted for each example.
        """
        knowledge = observation.knowledge
        if knowledge.labels is not None:
            return FixedLabels(knowledge.labels)
        if knowledge.label_counts is not None:
            return FixedLabels(_repeated(knowledge.label_counts))
        if observation.classes is None:
            return Inapplicable(
                "labels are not granted, and without a classification loss they cannot be recovered"
            )
        found = shared_head(as_one_gradient(observation))
        if isinstance(found, Inapplicable):
            return Inapplicable(f"labels are not granted, and cannot be recovered: {found}")
        if found.dbias is None:
            return Inapplicable(
                "labels are not granted, and the model's last layer has no bias to recover them from"
            )
        slope = slope_of(found.loss, len(found.weight))
        if slope is None:
            return Inapplicable("labels are not granted, and the loss takes no class labels")
        return Estimated(self.probes, observation.classes, found, found.dbias, slope)


def _repeated(counts: Tensor) -> Tensor:
    """Return labels (B,) in ascending order for counts (K,)."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


@dataclass(frozen=True, eq=False)
class Estimated(_Fixed):
    """Labels that are estimated from the gradient of the last layer's bias when a restart begins.

    Args:
        probes: Number of drawn inputs.
        classes: Number of classes.
        head: The last layer.
        dbias: The gradient (K,) of its bias.
        slope: The gradient of each example's own loss with respect to the outputs.
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
        """Return counts (K,) that sum to B: whole numbers near the least-squares solution.

        Examples are given to classes one after the other, each to the class that lacks most.
        """
        outputs = self.outputs(observation, generator)
        each = torch.stack([self.slope(outputs, y).mean(0) for y in range(self.classes)])
        reduction = reduction_of(self.head.loss, self.classes, width=len(self.head.weight))
        count = observation.batch_size
        summed = reduction is not None and reduction.divisors is None
        # The right side is the sum of the examples' own slopes. The last equation says that the
        # counts sum to the batch size. `unit` gives this equation the scale of the others.
        goal, unit = self.dbias * (1 if summed else count), float(each.norm())
        equations = torch.cat([each.T, torch.full((1, len(each)), unit).double()])
        right = torch.cat([goal, torch.tensor([unit * count]).double()])
        score = torch.linalg.pinv(equations) @ right
        counts = torch.zeros(len(each), dtype=torch.long)
        for _ in range(count):
            counts[(score - counts).argmax()] += 1
        return counts.to(observation.update.like.device)

    def outputs(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return logits (N, K) of inputs drawn uniformly from the domain, in float64."""
        unit = torch.rand((self.probes, *unit_shape(observation.domain)), generator=generator)
        like = next(observation.model.parameters())
        head, recorded = self.head, list[Tensor]()

        def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            recorded.append(head.head.features(observation.model, arguments[0]))

        hook = observation.model.get_submodule(head.head.name).register_forward_pre_hook(note)
        try:
            with torch.no_grad():
                inputs = observation.domain.from_unit(unit.to(like))
                stateless(observation.model, trainable(observation.model), inputs)
        finally:
            hook.remove()
        outputs = recorded[0].double().cpu() @ head.weight.T
        return outputs if head.bias is None else outputs + head.bias
