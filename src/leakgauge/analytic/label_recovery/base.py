"""What every method of label recovery shares: the answer, what is read of the update, and whole counts."""

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
from leakgauge.federated.training.local_steps import interpolated


@dataclass(frozen=True, kw_only=True)
class LabelRecovery:
    """Labels of a batch, in no order.

    present (C,) bool: the classes that have an example. counts (C,) whole numbers that sum to B: how
    many, None where the method tells presence alone. certified: the update itself proves them.
    """

    method: str
    present: Tensor
    counts: Tensor | None = None
    certified: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, counts: Tensor, method: str, *notes: str, certified: bool = False) -> LabelRecovery:
        """Of counts (C,)."""
        return cls(
            method=method, present=counts > 0, counts=counts, certified=certified, notes=notes
        )

    @property
    def labels(self) -> Tensor:
        """Class indices (B,) in ascending order. Raises ValueError where presence alone is told."""
        if self.counts is None:
            raise ValueError(f"{self.method} tells which classes are present, not how many of each")
        return torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)


Reading = Callable[[Seeds], LabelRecovery]
"""Labels of one observation that are ready to be read. The seeds are for what a method draws."""


class LabelMethod(ABC):
    """An observation in, its labels out. Never sees the truth."""

    @abstractmethod
    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        """Return the reading of the labels, or the reason why this method cannot read them.

        What is found out here, the reading uses: nothing is computed twice.
        """

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        """Prepare and read. Raise ValueError with the reason if the method cannot read the labels."""
        found = self.prepare(observation)
        if isinstance(found, Inapplicable):
            raise ValueError(f"labels cannot be read: {found}")
        return found(seeds)


@dataclass(frozen=True)
class BiasedLayer(Layer):
    """A last layer with the gradient (C,) of its bias."""

    dbias: Tensor


@dataclass(frozen=True)
class BiasedHead(HeadGradient):
    """A head with the gradient of its bias."""

    layer: BiasedLayer


def many_steps(observation: Observation) -> LocalSteps | Inapplicable:
    """The local training, where its steps are known; or why they are not."""
    if observation.update.kind != "delta":
        return Inapplicable(
            f"needs a difference of weights, not an update of kind {observation.update.kind!r}"
        )
    if observation.knowledge.batch_size is None:
        return Inapplicable("needs the batch size")
    found = steps_of(observation)
    if found is None:
        return Inapplicable(
            f"the steps of a local training {type(observation.training).__name__} are not told"
        )
    return found


def mean_gradient(observation: Observation, training: LocalSteps) -> Observation:
    """The observation, as one of the mean gradient along the way, taken at the middle of the way.

    theta' - theta = -sum of rate v with v = momentum v + g + weight decay theta. Exact for one step.
    """
    several = training.taken(observation.batch_size) > 1
    seen = interpolated(observation, 0.5 if several else 1.0)
    held = trainable(seen.model)
    gradient = {
        name: t - training.weight_decay * held[name].detach()
        for name, t in seen.update.tensors.items()
        if name in held  # of several rounds, the first
    }
    return replace(seen, training=FedSGD(), update=Update(gradient))


def as_gradient(observation: Observation) -> Observation:
    """The observation, as one of a gradient where its difference is that of a single step."""
    training = many_steps(observation)
    if isinstance(training, Inapplicable) or training.taken(observation.batch_size) > 1:
        return observation
    return mean_gradient(observation, training)


def head_of(
    observation: Observation, *, one_hot: bool = False, uneven: bool = False
) -> HeadGradient | Inapplicable:
    """Return the head's gradient, or the reason why a method cannot read labels from it.

    Args:
        observation: of one gradient, or of a weight difference of one step.
        one_hot: whether the method needs targets of 0 and 1.
        uneven: whether the method takes account of class weights.
    """
    found = last_layer(as_gradient(observation))
    if isinstance(found, Inapplicable):
        return found
    reason = unfit(found.link, one_hot=one_hot, uneven=uneven)
    return found if reason is None else Inapplicable(reason)


def biased_head_of(
    observation: Observation, *, one_hot: bool = False, uneven: bool = False
) -> BiasedHead | Inapplicable:
    """Return the same with the gradient of the bias, which the method needs."""
    found = last_layer(as_gradient(observation))
    if isinstance(found, Inapplicable):
        return found
    layer = found.layer
    if layer.dbias is None:
        return Inapplicable("needs the gradient of the last layer's bias")
    reason = unfit(found.link, one_hot=one_hot, uneven=uneven)
    if reason is not None:
        return Inapplicable(reason)
    biased = BiasedLayer(layer.weight, layer.bias, layer.dweight, layer.dbias, layer.batch)
    return BiasedHead(head=found.head, layer=biased, link=found.link, shared=found.shared)


def unfit(link: LossLink, *, one_hot: bool = False, uneven: bool = False) -> str | None:
    """Return why a method cannot read labels under a loss, or None if it can. The options are those of `head_of`."""
    if not uneven and not link.even:
        return "needs a loss that weighs all classes alike"
    if one_hot and link.activation == "identity":
        return "needs outputs squashed by softmax or sigmoid, not squared error"
    if one_hot and not torch.equal(link.targets, torch.eye(len(link.targets)).double()):
        return "needs targets of 0 and 1, not smoothed ones"
    return None


def sent(observation: Observation) -> Tensor | None:
    """Which entries of the last layer's gradient, (C, d + 1) with the bias last, a known defense has left.

    None where it leaves all, or none, or where there is no such layer.
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


def whole(estimate: Tensor, total: int) -> Tensor:
    """The whole numbers (C,) of 0 or more with this sum that are nearest to `estimate`."""
    # Where they need not be whole they are max(0, estimate - level); whole, they are less than 1 away.
    falling = estimate.double().sort(descending=True).values
    ranks = torch.arange(1, len(falling) + 1).double()
    levels = (falling.cumsum(0) - total) / ranks
    level = levels[int((falling > levels).nonzero().max())]
    shifted = (estimate.double() - level).clamp_min(0)
    counts = shifted.floor().long()
    while int(counts.sum()) < total:
        counts[(shifted - counts).argmax()] += 1
    return counts
