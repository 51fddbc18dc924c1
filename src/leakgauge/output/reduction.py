"""How a loss combines the examples of a batch, measured by calling it.

With own_i the slope of the loss of example i alone, the loss of a batch has the slope

    own_i d(y_i) / sum_j d(y_j)     for a mean (all d equal), or a mean that divides by class weights d
    own_i                           for a sum
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Loss, ProbeError
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import value_of

WITHIN = 1e-5
"""Relative error of the slopes of a test batch up to which the form holds. A loss may compute in float32."""
TOGETHER = 512
"""Examples of a batch at most: losses over many classes take much memory."""
TESTED = 4
"""Examples of the test batch."""


@dataclass(frozen=True)
class Reduction:
    """How much of its own slope each example has in a batch.

    divisors (C,): d of each class, its mean 1. None for a sum.
    """

    divisors: Tensor | None

    @property
    def even(self) -> bool:
        """Whether every class has the same divisor, so that the labels of the others do not matter."""
        return self.divisors is None or bool((self.divisors - 1).abs().max() < WITHIN)

    def share(self, count: int) -> float:
        """Return the fraction of its own slope that an example has in a batch of `count`. Needs `even`."""
        return 1.0 if self.divisors is None else 1 / count

    def shares(self, labels: Tensor) -> Tensor:
        """Return the fraction (B,) of its own slope that each example has in a batch of these labels (B,)."""
        if self.divisors is None:
            return torch.ones(len(labels), dtype=torch.float64)
        held = self.divisors[labels.cpu()]
        return held / held.sum()


def reduction_of(loss: Loss, classes: int, *, width: int | None = None) -> Reduction | None:
    """Return how the loss combines examples of class labels, or None if it is of neither form.

    width: outputs of an example, by default one for each class.
    """
    generator = torch.Generator().manual_seed(0)  # probes of a map: any points serve
    outputs = torch.randn((TESTED, width or classes), generator=generator, dtype=torch.float64)
    each: list[Tensor] = []
    for labels in torch.split(torch.arange(classes), TOGETHER):
        # Class 0 is in every batch, so that the divisors of different batches compare.
        found = _divisors(loss, outputs[:1], [0, *labels.tolist()])
        if found is None:
            return None
        each.append(found[1:])
    against = torch.cat(each)
    if bool((against == 0).all()):
        return _tested(Reduction(None), loss, outputs, classes)
    if bool((against == 0).any()):
        return None
    divisors = against / against.mean()
    if bool((divisors - 1).abs().max() < WITHIN):
        divisors = torch.ones_like(divisors)
    return _tested(Reduction(divisors), loss, outputs, classes)


def own_slopes(
    loss: Loss, outputs: Tensor, labels: list[int], reduction: Reduction
) -> Tensor | None:
    """Return the slope (N, C) of each example's own loss at outputs (N, C), or None as `slopes` does."""
    found: list[Tensor] = []
    for some, names in zip(
        torch.split(outputs, TOGETHER), torch.split(torch.tensor(labels), TOGETHER), strict=True
    ):
        whole = slopes(loss, some, names.tolist())
        if whole is None:
            return None
        found.append(whole / reduction.shares(names).unsqueeze(1))
    return torch.cat(found)


def _divisors(loss: Loss, output: Tensor, labels: list[int]) -> Tensor | None:
    """Divisors of labels (N,) relative to that of the first, all 0 for a sum, or None if it is neither."""
    whole = slopes(loss, output.expand(len(labels), -1), labels)
    alone = [slopes(loss, output, [label]) for label in labels]
    if whole is None or any(slope is None for slope in alone):
        return None
    own = torch.cat([slope for slope in alone if slope is not None])
    sizes = own.norm(dim=1)
    if not bool(torch.isfinite(sizes).all()) or not bool((sizes > 0).all()):
        return None  # the loss ignores a class, and its examples leave no trace
    shares = whole.norm(dim=1) / sizes
    if bool(((shares - 1).abs() < WITHIN).all()):
        return torch.zeros_like(shares)
    if abs(float(shares.sum()) - 1) > len(labels) * WITHIN or not bool((shares > 0).all()):
        return None
    relative: Tensor = shares / shares[0]
    return relative


def slopes(loss: Loss, outputs: Tensor, labels: list[int]) -> Tensor | None:
    """Return dL/dz (N, C) at outputs (N, C), or None if the loss takes no such class labels.

    The loss is asked in float64, and in float32 if its own tensors ask for that.
    """
    for dtype in (torch.float64, torch.float32):
        point = outputs.detach().to(dtype).clone().requires_grad_()
        try:
            with probing("the loss"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # labels may not be what the loss is made for
                value = value_of(loss, point, torch.tensor(labels))
                if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
                    return None
                (slope,) = torch.autograd.grad(value, [point], allow_unused=True)
        except ProbeError:
            continue  # it wants targets of another kind, or numbers of another type
        return None if slope is None else slope.double()
    return None


def _tested(found: Reduction, loss: Loss, outputs: Tensor, classes: int) -> Reduction | None:
    """The reduction if it foretells the slopes of a batch of several labels, else None."""
    labels = [i % classes for i in range(len(outputs))]
    whole = slopes(loss, outputs, labels)
    alone = [slopes(loss, outputs[i : i + 1], [label]) for i, label in enumerate(labels)]
    if whole is None or any(slope is None for slope in alone):
        return None
    own = torch.cat([slope for slope in alone if slope is not None])
    expected = found.shares(torch.tensor(labels)).unsqueeze(1) * own
    return found if bool((whole - expected).norm() <= 10 * WITHIN * whole.norm()) else None
