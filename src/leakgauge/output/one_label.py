"""The label of one example, as the one that explains the gradient of the head.

The gradient of one example is dW = delta h', db = delta, delta = dL/dz. With a bias, h = dW' delta / |delta|^2 and
z = W h + b are known, so each label foretells delta. Without a bias, delta = t a and h = v / t with one unknown
number t, and each label asks for another t (`Line`). No rule about signs is needed, and no form of the loss.
Of an update that is only near one gradient, the direction of delta decides instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from leakgauge.core import Inapplicable, Loss, Observation
from leakgauge.output.head import SharedHead, shared_head
from leakgauge.output.reduction import slopes

STEPS = 40
"""Values of t tried in each power of ten."""
POWERS = (-9, 2)
"""Powers of ten of t, relative to the slope without features. Below them a gradient is rounding."""
LABELS = 8
"""Labels tried along a line."""
MOST = 3
"""Solutions kept for each label."""
EXPLAINED = 1e-2
"""Relative misfit up to which a label explains the gradient."""
CLEAR = 10.0
"""How many times worse the second label must explain the gradient, for the first to be certain."""

Slope = Callable[[Tensor, int], Tensor]
"""From outputs z (N, C) and a label to the slope (N, C) of each example's own loss."""


@dataclass(frozen=True)
class Explained:
    """delta (C,), features (d,) and label that explain the head's gradient to a relative misfit."""

    delta: Tensor
    features: Tensor
    label: int
    misfit: float


@dataclass(frozen=True)
class OneLabel:
    """The label of one example, of `classes`.

    certain: it alone explains the gradient, to the relative misfit. head: whose gradient it was read from.
    """

    label: int
    classes: int
    misfit: float
    certain: bool
    head: SharedHead


def label_of_one(observation: Observation) -> OneLabel | Inapplicable:
    """Return the label of a batch of one from one gradient, or in one line why it cannot be read."""
    if observation.classes is None:
        return Inapplicable("labels are read for a loss over classes")
    head = shared_head(observation)
    if isinstance(head, Inapplicable):
        return head
    if not bool(head.dweight.any()):
        return Inapplicable("the gradient of the last layer is 0")
    slope = slope_of(head.loss, len(head.weight))
    if slope is None:
        return Inapplicable("the loss takes no class labels")
    # A model may have more outputs than the domain has classes.
    labels = range(max(observation.classes, len(head.weight)))
    found = explain(slope, head.weight, head.bias, head.dweight, head.dbias, labels)
    first, *others = _best_of_each(found)
    second = others[0].misfit if others else float("inf")
    certain = first.misfit <= EXPLAINED and second > CLEAR * max(first.misfit, 1e-12)
    if certain:
        return OneLabel(first.label, len(labels), first.misfit, certain=True, head=head)
    label = _by_direction(head, slope, labels)
    return OneLabel(label, len(labels), first.misfit, certain=False, head=head)


def slope_of(loss: Loss, width: int) -> Slope | None:
    """Return the function that gives the slope of each example's own loss, or None if it takes no class labels."""
    points = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).double()
    alone, together = slopes(loss, points[:1], [0]), slopes(loss, points, [0, 0])
    if alone is None or together is None:
        return None
    # With equal labels each example has the same fraction of its own slope: 1 / N, or all of it.
    summed = bool(together[0].norm() > 0.75 * alone.norm())

    def slope(outputs: Tensor, label: int) -> Tensor:
        found = slopes(loss, outputs, [label] * len(outputs))
        assert found is not None, "the loss took class labels before"
        return found if summed else found * len(outputs)

    return slope


def likeliest(delta: Tensor, classes: int) -> list[int]:
    """Return the labels worth trying along a line: the example's own output is among those that move most."""
    if len(delta) != classes:
        return list(range(classes))
    return [int(i) for i in delta.abs().argsort(descending=True)[:LABELS]]


def explain(
    slope: Slope,
    weight: Tensor,
    bias: Tensor | None,
    dweight: Tensor,
    dbias: Tensor | None,
    labels: Sequence[int],
) -> list[Explained]:
    """Return what explains dweight (C, d) and dbias (C,) of the last layer for each label, the best first."""
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    if dbias is not None and bool(dbias.any()):
        size = dbias.norm()
        delta = dbias / size
        features = dweight.T @ delta / size
        z = (weight @ features + offset).unsqueeze(0)
        found = [Explained(dbias, features, y, _misfit(dbias, slope(z, y)[0])) for y in labels]
    else:
        left, values, right = torch.linalg.svd(dweight, full_matrices=False)
        line = Line(left[:, 0], values[0] * right[0], weight, offset, slope)
        found = [s for y in likeliest(line.a, len(labels)) for s in line.solutions(y)]
    return sorted(found, key=lambda start: start.misfit)


def _misfit(delta: Tensor, caused: Tensor) -> float:
    return float((delta - caused).norm() / delta.norm())


def _best_of_each(found: list[Explained]) -> list[Explained]:
    """The best explanation of each label, the best label first."""
    best: dict[int, Explained] = {}
    for one in found:
        best.setdefault(one.label, one)
    return list(best.values())


def _by_direction(head: SharedHead, slope: Slope, labels: Sequence[int]) -> int:
    """The label whose slope points most nearly along delta, at the outputs that the gradient suggests."""
    if head.dbias is not None and bool(head.dbias.any()):
        delta = head.dbias
        features = head.dweight.T @ delta / delta.square().sum()
        z = (head.weight @ features).unsqueeze(0)
    else:
        # With cross-entropy the label's own entry is negative, and as large as all others together.
        left, *_ = torch.linalg.svd(head.dweight, full_matrices=False)
        delta = -left[:, 0] * left[left[:, 0].abs().argmax(), 0].sign()
        z = head.weight.new_zeros((1, len(head.weight)))
    if head.bias is not None:
        z = z + head.bias
    caused = torch.stack([slope(z, y)[0] for y in labels])
    sizes = caused.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return int((caused @ (delta / delta.norm()) / sizes).argmax())


@dataclass(frozen=True)
class Line:
    """delta = t a and h = v / t, t of either sign."""

    a: Tensor
    v: Tensor
    weight: Tensor
    bias: Tensor
    slope: Slope

    def at(self, t: Tensor) -> Tensor:
        """Return the outputs (N, C) that each t (N,) means."""
        return (self.weight @ self.v) / t.unsqueeze(1) + self.bias

    def misfits(self, t: Tensor, label: int) -> Tensor:
        """Return how far delta is from what the outputs cause, relative to delta, for each t (N,)."""
        delta = t.unsqueeze(1) * self.a
        left: Tensor = (delta - self.slope(self.at(t), label)).norm(dim=1)
        return left / t.abs()

    def solutions(self, label: int) -> list[Explained]:
        """Return every least misfit along the line, made precise."""
        low, high = POWERS
        powers = torch.linspace(low, high, STEPS * (high - low) + 1, dtype=torch.float64)
        unit = float(self.slope(self.bias.unsqueeze(0), label).norm()) or 1.0
        powers = powers + math.log10(unit)
        found = []
        for sign in (1.0, -1.0):
            values = self.misfits(sign * 10**powers, label)
            least = (values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])
            places = least.nonzero().squeeze(1) + 1
            for i in places[values[places].argsort()[:MOST]].tolist():
                bounds = (float(powers[i - 1]), float(powers[i + 1]))
                found.append(self.refined(sign, bounds, label))
        return found

    def refined(self, sign: float, bounds: tuple[float, float], label: int) -> Explained:
        """Return the least misfit between two powers of ten."""

        def misfit(power: float) -> float:
            t = torch.tensor([sign * 10**power], dtype=torch.float64)
            return float(self.misfits(t, label)[0])

        best = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-14})
        t = sign * 10 ** float(best.x)
        return Explained(t * self.a, self.v / t, label, misfit(float(best.x)))
