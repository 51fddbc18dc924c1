"""How a loss answers to the last layer's outputs: dL/dz = scale (act(z / temperature) - target of the label).

Softmax cross-entropy (with label smoothing, and a temperature), binary cross-entropy against one-hot
targets and squared error are of this form. Which one a loss is, its derivatives at a few points tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import Loss
from leakgauge.federated.untouched import value_of

Activation = Literal["softmax", "sigmoid", "identity"]
PROBE = 1e4
"""An output so large that softmax and sigmoid are saturated at any temperature in use."""


@dataclass(frozen=True)
class Link:
    """dL/dz of one example of label y is scale (act(z / temperature) - targets[y]); targets (C, C)."""

    activation: Activation
    scale: float
    temperature: float
    targets: Tensor

    def value(self, outputs: Tensor) -> Tensor:
        """act of outputs (..., C) that were divided by the temperature."""
        if self.activation == "softmax":
            return outputs.softmax(-1)
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs

    def push(self, value: Tensor, directions: Tensor, rows: Tensor) -> Tensor:
        """Derivative (..., R, m) of rows of act at `value` (..., C) along directions (C, m) of its outputs."""
        if self.activation == "softmax":
            mean = (value @ directions).unsqueeze(-2)
            return value[..., rows, None] * (directions[rows] - mean)
        if self.activation == "sigmoid":
            return (value * (1 - value))[..., rows, None] * directions[rows]
        return directions[rows].expand(*value.shape[:-1], *directions[rows].shape)


def link_of(loss: Loss, classes: int) -> Link | None:
    """The link of a mean loss on outputs (B, C) and class labels (B,); None where it is of another form."""
    origin = torch.zeros(classes, dtype=torch.float64)
    unit = torch.eye(classes, dtype=torch.float64)[0]
    base = derivative(loss, origin, 0)
    if base is None:
        return None
    rise = derivative(loss, PROBE * unit, 0)
    if rise is None:
        return None
    step = float(rise[0] - base[0])
    found: list[tuple[Activation, float]] = [
        ("softmax", step / (1 - 1 / classes)),
        ("sigmoid", 2 * step),
        ("identity", step / PROBE),
    ]
    for activation, scale in found:
        link = _fitted(loss, activation, scale, classes)
        if link is not None:
            return link
    return None


def _fitted(loss: Loss, activation: Activation, scale: float, classes: int) -> Link | None:
    """The link of this activation and scale, where it meets the loss's derivatives at a test point."""
    if not 0 < scale < PROBE:
        return None
    # The slope of cross-entropy of z / t is 1 / t of that of z: scale and temperature are one number.
    temperature = 1 / scale if activation == "softmax" else 1.0
    link = Link(activation, scale, temperature, torch.zeros(classes, classes, dtype=torch.float64))
    point = torch.linspace(-1, 1, classes, dtype=torch.float64)
    value = link.value(torch.zeros_like(point))
    rows = []
    for label in range(classes):
        slope = derivative(loss, torch.zeros_like(point), label)
        if slope is None:
            return None
        rows.append(value - slope / scale)
    # Rounding of 1e-17 would drown the classes that a trained network holds for impossible.
    targets = torch.stack(rows)
    whole = targets.round()
    targets = torch.where((targets - whole).abs() < 1e-9, whole, targets)
    link = Link(activation, scale, temperature, targets)
    for label in {0, classes - 1}:
        slope = derivative(loss, point, label)
        told = scale * (link.value(point / temperature) - link.targets[label])
        if slope is None or not torch.allclose(slope, told, rtol=1e-5, atol=1e-7 * scale):
            return None
    return link


def derivative(loss: Loss, outputs: Tensor, label: int) -> Tensor | None:
    """dL/dz (C,) at outputs (C,) of one example; None where the loss takes no class label."""
    point = outputs.clone().unsqueeze(0).requires_grad_()
    try:
        value = value_of(loss, point, torch.tensor([label]))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None  # it wants targets of another kind
    if value.ndim != 0 or not value.requires_grad:
        return None
    (slope,) = torch.autograd.grad(value, [point])
    return slope[0]
