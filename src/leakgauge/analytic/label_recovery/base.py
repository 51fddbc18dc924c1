"""What every method of label recovery shares: the answer, what is read of the update, and whole counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.analytic.last_layer import last_layer
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


@runtime_checkable
class LabelMethod(Protocol):
    """An observation in, its labels out. Never sees the truth."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Why this method cannot read this observation, in one line; None where it can."""
        ...

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        """The labels. Raises ValueError where `inapplicable`."""
        ...


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
    observation: Observation, *, bias: bool = False, one_hot: bool = False, uneven: bool = False
) -> tuple[Layer, LossLink] | Inapplicable:
    """Return the last layer's gradient and the loss's link, or why the method cannot read it.

    bias: the gradient of the bias is needed. one_hot: targets of 0 and 1 are needed. uneven: the method knows of
    class weights.
    """
    found = last_layer(as_gradient(observation))
    if isinstance(found, Inapplicable):
        return found
    layer, link = found.layer, found.link
    if bias and layer.dbias is None:
        return Inapplicable("needs the gradient of the last layer's bias")
    if not uneven and not link.even:
        return Inapplicable("needs a loss that weighs all classes alike")
    if one_hot and link.activation == "identity":
        return Inapplicable("needs outputs squashed by softmax or sigmoid, not squared error")
    if one_hot and not torch.equal(link.targets, torch.eye(len(link.targets)).double()):
        return Inapplicable("needs targets of 0 and 1, not smoothed ones")
    return layer, link


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


def told(found: tuple[Layer, LossLink] | Inapplicable) -> tuple[Layer, LossLink]:
    """Return what `head_of` found. Raises ValueError with the reason if it found none."""
    if isinstance(found, Inapplicable):
        raise ValueError(f"labels cannot be read: {found}")
    return found


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
