"""Shared parts of label recovery: the result, the gradient that methods use, and rounding of counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.last_layer import HeadGradient, last_layer
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, LocalSteps, Observation, Seeds, Update, trainable
from leakgauge.federated.training.calibration import steps_of
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.local_steps import interpolate


@dataclass(frozen=True, kw_only=True)
class LabelRecovery:
    """Recovered labels of a batch, without their order.

    Args:
        method: Name of the method.
        present: (C,) bool, the classes that have at least one example.
        counts: (C,), number of examples of each class, whole numbers with sum B. None if the method
            only recovers which classes are present.
        certified: Whether the update itself proves the labels.
        notes: Lines for the record.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.label_recovery import LabelRecovery
        >>> LabelRecovery.of(torch.tensor([2, 0, 1]), "some method").labels
        tensor([0, 0, 2])
    """

    method: str
    present: Tensor
    counts: Tensor | None = None
    certified: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, counts: Tensor, method: str, *notes: str, certified: bool = False) -> LabelRecovery:
        """Return the recovery with counts (C,)."""
        return cls(
            method=method, present=counts > 0, counts=counts, certified=certified, notes=notes
        )

    @property
    def labels(self) -> Tensor:
        """Class indices (B,) in ascending order.

        Raises:
            ValueError: The method only recovers which classes are present, and no counts.
        """
        if self.counts is None:
            raise ValueError(
                f"{self.method} recovers which classes are present, not how many of each"
            )
        return torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)


Reading = Callable[[Seeds], LabelRecovery]
"""Function from seeds to the labels of one observation. A method that draws inputs draws them with these seeds."""


class LabelMethod(ABC):
    """A method that recovers labels from an observation. It never sees the true labels."""

    @abstractmethod
    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        """Return a function that recovers the labels, or the reason why this method cannot.

        The function reuses all results of this check, so nothing is computed twice.
        """

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        """Return the recovered labels.

        Args:
            observation: The observation of one update.
            seeds: Seeds of the inputs that the method draws.

        Raises:
            ValueError: The method cannot recover the labels. The message says why.
        """
        found = self.prepare(observation)
        if isinstance(found, Inapplicable):
            raise ValueError(f"labels cannot be recovered: {found}")
        return found(seeds)


@dataclass(frozen=True)
class BiasedLayer(Layer):
    """A last layer with the gradient (C,) of its bias."""

    dbias: Tensor


@dataclass(frozen=True)
class BiasedHead(HeadGradient):
    """A head with a bias and the gradient of that bias."""

    layer: BiasedLayer


def known_steps(observation: Observation) -> LocalSteps | Inapplicable:
    """Return the steps of the local training if they are known, else the reason why they are not."""
    if observation.update.kind != "delta":
        return Inapplicable(
            f"needs a difference of weights; found an update of kind {observation.update.kind!r}"
        )
    if observation.knowledge.batch_size is None:
        return Inapplicable("needs the batch size")
    found = steps_of(observation)
    if found is None:
        return Inapplicable(
            f"the steps of the local training {type(observation.training).__name__} are not known"
        )
    return found


def mean_gradient(observation: Observation, training: LocalSteps) -> Observation:
    """Return the observation with its update as the mean gradient, at the middle of the trajectory.

    The update is theta' - theta = -sum(rate * v) over the steps, with
    v = momentum * v + g + weight_decay * theta and the gradient g. The mean gradient is exact for
    one step.
    """
    several = training.count_steps(observation.batch_size) > 1
    seen = interpolate(observation, 0.5 if several else 1.0)
    held = trainable(seen.model)
    gradient = {
        name: t - training.weight_decay * held[name].detach()
        for name, t in seen.update.tensors.items()
        if name in held  # tensors of later rounds have other names
    }
    return replace(seen, training=FedSGD(), update=Update(gradient))


def as_gradient(observation: Observation) -> Observation:
    """Return the observation with its weight difference as a gradient if it took one step, else unchanged."""
    training = known_steps(observation)
    if isinstance(training, Inapplicable) or training.count_steps(observation.batch_size) > 1:
        return observation
    return mean_gradient(observation, training)


def head_of(
    observation: Observation, *, one_hot: bool = False, uneven: bool = False
) -> HeadGradient | Inapplicable:
    """Return the head's gradient, or the reason why a method cannot recover labels from it.

    Args:
        observation: Observation of one gradient, or of a weight difference of one step.
        one_hot: Whether the method needs targets of 0 and 1.
        uneven: Whether the method can handle unequal class weights.
    """
    found = last_layer(as_gradient(observation))
    if isinstance(found, Inapplicable):
        return found
    reason = why_unfit(found.link, one_hot=one_hot, uneven=uneven)
    return found if reason is None else Inapplicable(reason)


def biased_head_of(
    observation: Observation, *, one_hot: bool = False, uneven: bool = False
) -> BiasedHead | Inapplicable:
    """Return the head with the gradients of weight and bias, or why a method cannot use them.

    The arguments are those of `head_of`.
    """
    found = last_layer(as_gradient(observation))
    if isinstance(found, Inapplicable):
        return found
    layer = found.layer
    if layer.dbias is None:
        return Inapplicable("needs the gradient of the last layer's bias")
    reason = why_unfit(found.link, one_hot=one_hot, uneven=uneven)
    if reason is not None:
        return Inapplicable(reason)
    biased = BiasedLayer(layer.weight, layer.bias, layer.dweight, layer.dbias, layer.batch)
    return BiasedHead(head=found.head, layer=biased, link=found.link, shared=found.shared)


def why_unfit(link: LossLink, *, one_hot: bool = False, uneven: bool = False) -> str | None:
    """Return why a method cannot recover labels under a loss, or None if it can. The options are those of `head_of`."""
    if not uneven and not link.even:
        return "needs a loss with equal class weights"
    if one_hot and link.activation == "identity":
        return "needs a loss with softmax or sigmoid outputs, not squared error"
    if one_hot and not torch.equal(link.targets, torch.eye(len(link.targets)).double()):
        return "needs targets of 0 and 1, not smoothed ones"
    return None


def shared_entries(observation: Observation) -> Tensor | None:
    """Return a mask (C, d + 1) of the last layer's gradient entries that a known defense shares.

    Returns:
        1 for a shared entry and 0 for a dropped one. The last column is the bias. None if no
        defense is known, if it shares all or no entries, or if the bias has no gradient.
    """
    seen, defense = as_gradient(observation), observation.knowledge.defense
    if defense is None:
        return None
    ones = {name: torch.ones_like(t) for name, t in seen.update.tensors.items()}
    kept = {name: (t != 0).to(t) for name, t in defense.adapt(seen.update)(ones).items()}
    found = last_layer(replace(seen, update=replace(seen.update, tensors=kept)))
    if isinstance(found, Inapplicable) or found.layer.dbias is None:
        return None
    mask = torch.cat([found.layer.dweight, found.layer.dbias.unsqueeze(1)], 1) != 0
    return None if bool(mask.all()) or not bool(mask.any()) else mask.double()


def round_counts(estimate: Tensor, total: int) -> Tensor:
    """Return the whole numbers (C,), at least 0 and with sum `total`, that are nearest to `estimate` (C,)."""
    # The nearest real numbers of this sum are max(0, estimate - level). The whole numbers differ
    # from them by less than 1.
    falling = estimate.double().sort(descending=True).values
    ranks = torch.arange(1, len(falling) + 1).double()
    levels = (falling.cumsum(0) - total) / ranks
    level = levels[int((falling > levels).nonzero().max())]
    shifted = (estimate.double() - level).clamp_min(0)
    counts = shifted.floor().long()
    while int(counts.sum()) < total:
        counts[(shifted - counts).argmax()] += 1
    return counts
