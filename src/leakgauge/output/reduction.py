r"""The reduction of a loss: how it combines the examples of a batch, measured by calling it.

Let :math:`s_i` be the slope of the loss of example :math:`i` alone. In a batch, its slope is

.. math::

    s_i \, \frac{d(y_i)}{\sum_j d(y_j)}

for a mean with class weights :math:`d`. For a plain mean, all :math:`d` are equal. For a sum, it is
:math:`s_i`.
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
"""Largest relative error of the slopes of a test batch. A loss may compute in float32."""
TOGETHER = 512
"""Largest number of examples in one call of the loss, since losses over many classes take much memory."""
TESTED = 4
"""Number of examples of the test batch."""


@dataclass(frozen=True)
class Reduction:
    """The fraction of its own slope that each example has in a batch.

    Args:
        divisors: The weight d (C,) of each class, with mean 1, or None for a sum.
    """

    divisors: Tensor | None

    @property
    def even(self) -> bool:
        """Whether all classes have the same weight. Then the labels of other examples do not matter."""
        return self.divisors is None or bool((self.divisors - 1).abs().max() < WITHIN)

    def fractions(self, labels: Tensor) -> Tensor:
        """Return the fraction (B,) of its own slope that each example has in a batch with labels (B,)."""
        if self.divisors is None:
            return torch.ones(len(labels), dtype=torch.float64)
        held = self.divisors[labels.cpu()]
        return held / held.sum()


def reduction_of(loss: Loss, classes: int, *, width: int | None = None) -> Reduction | None:
    """Return the reduction of the loss over class labels, or None if it is neither a mean nor a sum.

    Args:
        loss: A function of outputs and targets.
        classes: Number of class labels C.
        width: Number of outputs of an example. The default is one for each class.
    """
    # A fixed seed is enough: the result does not depend on the points.
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn((TESTED, width or classes), generator=generator, dtype=torch.float64)
    each: list[Tensor] = []
    for labels in torch.split(torch.arange(classes), TOGETHER):
        # Class 0 is in every batch, which makes the divisors of different batches comparable.
        found = _divisors(loss, outputs[:1], [0, *labels.tolist()])
        if found is None:
            return None
        each.append(found[1:])
    relative = torch.cat(each)
    if bool((relative == 0).all()):
        return _if_predictive(Reduction(None), loss, outputs, classes)
    if bool((relative == 0).any()):
        return None
    divisors = relative / relative.mean()
    if bool((divisors - 1).abs().max() < WITHIN):
        divisors = torch.ones_like(divisors)
    return _if_predictive(Reduction(divisors), loss, outputs, classes)


def own_slopes(
    loss: Loss, outputs: Tensor, labels: list[int], reduction: Reduction
) -> Tensor | None:
    """Return the slope (N, C) of each example's own loss at outputs (N, C).

    Returns None if the loss takes no class labels.
    """
    found: list[Tensor] = []
    for some, names in zip(
        torch.split(outputs, TOGETHER), torch.split(torch.tensor(labels), TOGETHER), strict=True
    ):
        whole = slopes(loss, some, names.tolist())
        if whole is None:
            return None
        found.append(whole / reduction.fractions(names).unsqueeze(1))
    return torch.cat(found)


def _divisors(loss: Loss, output: Tensor, labels: list[int]) -> Tensor | None:
    """Return the weights (N,) of labels, relative to the first label's. 0 for a sum, None for any other form."""
    whole = slopes(loss, output.expand(len(labels), -1), labels)
    alone = [slopes(loss, output, [label]) for label in labels]
    if whole is None or any(slope is None for slope in alone):
        return None
    own = torch.cat([slope for slope in alone if slope is not None])
    sizes = own.norm(dim=1)
    if not bool(torch.isfinite(sizes).all()) or not bool((sizes > 0).all()):
        # The loss ignores a class, whose examples have no slope.
        return None
    fractions = whole.norm(dim=1) / sizes
    if bool(((fractions - 1).abs() < WITHIN).all()):
        return torch.zeros_like(fractions)
    if abs(float(fractions.sum()) - 1) > len(labels) * WITHIN or not bool((fractions > 0).all()):
        return None
    relative: Tensor = fractions / fractions[0]
    return relative


def slopes(loss: Loss, outputs: Tensor, labels: list[int]) -> Tensor | None:
    """Return the slope dL/dz (N, C) at outputs (N, C), or None if the loss takes no class labels.

    The loss is called in float64, then in float32 if it fails, since it may hold tensors in float32.
    """
    for dtype in (torch.float64, torch.float32):
        point = outputs.detach().to(dtype).clone().requires_grad_()
        try:
            with probing("the loss"), warnings.catch_warnings():
                # A loss that is not made for class labels may warn.
                warnings.simplefilter("ignore")
                value = value_of(loss, point, torch.tensor(labels))
                if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
                    return None
                (slope,) = torch.autograd.grad(value, [point], allow_unused=True)
        except ProbeError:
            # The loss needs targets of another kind, or numbers of another type.
            continue
        return None if slope is None else slope.double()
    return None


def _if_predictive(found: Reduction, loss: Loss, outputs: Tensor, classes: int) -> Reduction | None:
    """Return the reduction if it predicts the slopes of a batch of several labels, else None."""
    labels = [i % classes for i in range(len(outputs))]
    whole = slopes(loss, outputs, labels)
    alone = [slopes(loss, outputs[i : i + 1], [label]) for i, label in enumerate(labels)]
    if whole is None or any(slope is None for slope in alone):
        return None
    own = torch.cat([slope for slope in alone if slope is not None])
    expected = found.fractions(torch.tensor(labels)).unsqueeze(1) * own
    return found if bool((whole - expected).norm() <= 10 * WITHIN * whole.norm()) else None
