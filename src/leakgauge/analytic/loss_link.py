"""The slope of a loss at the last layer's outputs, measured by calling the loss.

It has the form `dL/dz_i = weights[y_i] scale (act(z_i / temperature) - targets[y_i]) share_i`,
where share_i is the effect of the reduction on an example's own slope (`output.Reduction`).

Losses of this form are softmax cross-entropy with label smoothing, temperature and class weights,
binary cross-entropy against one-hot targets, and squared error. The reduction over the batch is a
mean or a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import Loss
from leakgauge.output.reduction import WITHIN, Reduction, own_slopes, reduction_of, slopes

Activation = Literal["softmax", "sigmoid", "identity"]
FAR = 1e4
"""Output at which softmax and sigmoid are saturated, at any common temperature."""
STEPS = (1.0, 0.1, 10.0, 0.01, 100.0)
"""Outputs that are tried, in this order, until act is not saturated there.

The temperature is measured at that output.
"""
SATURATED = 1e-3
"""If act is closer than this to one of its ends, it counts as saturated."""


@dataclass(frozen=True)
class LossLink:
    """The slope of one example's own loss, as a function of its outputs z and its label y.

    Args:
        activation: Name of act: softmax, sigmoid or identity. The slope is
            `weights[y] * scale * (act(z / temperature) - targets[y])`.
        scale: Scale of the loss.
        temperature: Divisor of the outputs.
        targets: (C, C). Row y is the target of label y.
        weights: (C,), weight of each label, relative to that of label 0.
        reduction: How the losses of a batch are combined.
    """

    activation: Activation
    scale: float
    temperature: float
    targets: Tensor
    weights: Tensor
    reduction: Reduction

    @property
    def even(self) -> bool:
        """Whether every class has equal weight, in the slopes and in the mean."""
        return self.reduction.even and bool((self.weights - 1).abs().max() < WITHIN)

    @property
    def loads(self) -> Tensor:
        """Weight (C,) of an example of each class in the sum of the batch's slopes, before the mean's division."""
        divisors = self.reduction.divisors
        return self.weights if divisors is None else self.weights * divisors

    def value(self, outputs: Tensor) -> Tensor:
        """Return act(outputs) for outputs (..., C) that are already divided by the temperature."""
        if self.activation == "softmax":
            return outputs.softmax(-1)
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs

    def slopes(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return `act(outputs / temperature) - targets[labels]` (..., C).

        It is the slope of each example's own loss, for a scale and a weight of 1.

        Args:
            outputs: Outputs (..., C) of the last layer.
            labels: Class indices, of the shape of the outputs without the last axis, or one that broadcasts to it.
        """
        return self.value(outputs / self.temperature) - self.targets.to(outputs)[labels]

    def push(self, value: Tensor, directions: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative (..., R, m) of act at `value` (..., C) along directions (C, m), for some rows."""
        if self.activation == "softmax":
            mean = (value @ directions).unsqueeze(-2)
            return value[..., rows, None] * (directions[rows] - mean)
        if self.activation == "sigmoid":
            return (value * (1 - value))[..., rows, None] * directions[rows]
        return directions[rows].expand(*value.shape[:-1], *directions[rows].shape)


def link_of(loss: Loss, classes: int) -> LossLink | None:
    """Return the link of a loss on outputs (B, C) and class labels (B,), or None if the loss has another form."""
    reduction = reduction_of(loss, classes)
    if reduction is None:
        return None
    for activation in ("softmax", "sigmoid", "identity"):
        link = _fit_link(loss, activation, classes, reduction)
        if link is not None:
            return link
    return None


def _fit_link(
    loss: Loss, activation: Activation, classes: int, reduction: Reduction
) -> LossLink | None:
    """Return the link of this activation if it matches the loss's slopes at test points, else None."""
    origin = torch.zeros(classes, dtype=torch.float64)
    labels = list(range(classes))
    base = own_slopes(loss, origin.expand(classes, -1), labels, reduction)
    if base is None:
        return None
    measured = _scale(loss, activation, base, reduction)
    if measured is None:
        return None
    scales, temperature = measured
    draft = LossLink(activation, 1.0, temperature, base, scales, reduction)
    # Targets close to whole numbers are rounded. An error of 1e-17 would hide those classes to
    # which a trained network gives almost no probability.
    targets = draft.value(origin) - base / scales.unsqueeze(1)
    whole = targets.round()
    targets = torch.where((targets - whole).abs() < 1e-6, whole, targets)
    weights = scales / scales[0]
    weights = torch.where((weights - 1).abs() < WITHIN, 1.0, weights)
    link = LossLink(activation, float(scales[0]), temperature, targets, weights, reduction)
    return (
        link if all(_meets(loss, link, label) for label in {0, classes // 2, classes - 1}) else None
    )


def _scale(
    loss: Loss, activation: Activation, base: Tensor, reduction: Reduction
) -> tuple[Tensor, float] | None:
    """Return weights times scale (C,), and the temperature, or None if the loss has another form.

    They are measured from slopes at points around the origin.
    """
    classes = len(base)
    if activation == "identity":
        scales = _slope_changes(loss, base, reduction, 1.0)
        return None if scales is None or not bool((scales > 0).all()) else (scales, 1.0)
    middle = 1 / classes if activation == "softmax" else 0.5
    # As one output grows to infinity, act of it rises from `middle` to 1.
    rises = _slope_changes(loss, base, reduction, FAR)
    if rises is None or not bool((rises > 0).all()):
        return None
    scales = rises / (1 - middle)
    for step in STEPS:
        moves = _slope_changes(loss, base, reduction, step)
        if moves is None:
            return None
        act = middle + float(moves[0] / scales[0])
        if 1 - act > SATURATED and act - middle > SATURATED * (1 - middle):
            odds = act / (1 - act) * ((classes - 1) if activation == "softmax" else 1)
            found = step / float(torch.tensor(odds, dtype=torch.float64).log())
            return scales, 1.0 if abs(found - 1) < WITHIN else found
    return None


def _slope_changes(loss: Loss, base: Tensor, reduction: Reduction, step: float) -> Tensor | None:
    """Return the change (C,) of each label's slope at another output c, as output c goes from 0 to `step`."""
    classes = len(base)
    labels = torch.arange(classes)
    others = (labels + 1) % classes
    points = torch.zeros_like(base)
    points[labels, others] = step
    found = own_slopes(loss, points, labels.tolist(), reduction)
    return None if found is None else found[labels, others] - base[labels, others]


def _meets(loss: Loss, link: LossLink, label: int) -> bool:
    """Return whether the link predicts the loss's slope at a test point."""
    point = link.temperature * torch.linspace(-1, 1, len(link.targets), dtype=torch.float64)
    slope = slopes(loss, point.unsqueeze(0), [label])
    size = link.scale * float(link.weights[label])
    predicted = size * (link.value(point / link.temperature) - link.targets[label])
    return slope is not None and torch.allclose(slope[0], predicted, rtol=1e-5, atol=1e-6 * size)
