r"""The label of one example: the label that explains the gradient of the head.

With the head's input :math:`h` and its output :math:`z = W h + b`, the gradient of one example is

.. math::

    dW = \delta h^\top, \qquad db = \delta, \qquad \delta = \frac{\partial L}{\partial z}

With a bias, :math:`\delta` is known, and so are :math:`h = dW^\top \delta / \|\delta\|^2` and
:math:`z`. Each label then predicts a :math:`\delta`, which must agree with the known one. Without a
bias, :math:`\delta = t a` and :math:`h = v / t` with one unknown number :math:`t`. Each label then
implies a different :math:`t`, see `Line`.

The method needs no rule about signs, and no particular loss. If an update is only close to one
gradient, the direction of :math:`\delta` decides instead.
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
"""Number of values of t that are tried in each power of ten."""
POWERS = (-9, 2)
"""Range of the powers of ten of t, relative to the slope without features. A smaller gradient is rounding."""
LABELS = 8
"""Number of labels that are tried along a line."""
MOST = 3
"""Number of solutions that are kept for each label and sign of t."""
EXPLAINED = 1e-2
"""Largest relative misfit at which a label explains the gradient."""
CLEAR = 10.0
"""Least ratio of the second label's misfit to the first one's, for the first label to be certain."""

Slope = Callable[[Tensor, int], Tensor]
"""A function from outputs z (N, C) and a label to the slope (N, C) of each example's own loss."""


@dataclass(frozen=True)
class Explained:
    """One explanation of the head's gradient.

    Args:
        delta: Slope of the loss with respect to the outputs (C,).
        features: Input of the head h (d,).
        label: The label.
        misfit: Relative difference between `delta` and the slope that the label predicts.
    """

    delta: Tensor
    features: Tensor
    label: int
    misfit: float


@dataclass(frozen=True)
class OneLabel:
    """The recovered label of one example.

    Args:
        label: The label, from 0 to `classes - 1`.
        classes: Number of candidate labels.
        misfit: Relative misfit of the best explanation of the gradient.
        certain: Whether only this label explains the gradient.
        head: The head with its gradient.
    """

    label: int
    classes: int
    misfit: float
    certain: bool
    head: SharedHead


def label_of_one(observation: Observation) -> OneLabel | Inapplicable:
    """Return the label of a batch of one, recovered from one gradient, or why it cannot be recovered."""
    if observation.classes is None:
        return Inapplicable("labels can only be recovered for a loss over classes")
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
    label = _label_by_direction(head, slope, labels)
    return OneLabel(label, len(labels), first.misfit, certain=False, head=head)


def slope_of(loss: Loss, width: int) -> Slope | None:
    """Return the function for the slope of each example's own loss, or None if the loss takes no class labels."""
    points = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).double()
    alone, together = slopes(loss, points[:1], [0]), slopes(loss, points, [0, 0])
    if alone is None or together is None:
        return None
    # With equal labels each example has the same fraction of its own slope: 1 / N, or all of it.
    summed = bool(together[0].norm() > 0.75 * alone.norm())

    def slope(outputs: Tensor, label: int) -> Tensor:
        found = slopes(loss, outputs, [label] * len(outputs))
        assert found is not None, "the loss accepted class labels before"
        return found if summed else found * len(outputs)

    return slope


def choose_labels(delta: Tensor, classes: int) -> list[int]:
    """Return the labels to try along a line: those of the outputs with the largest slope in `delta` (C,).

    The output of the true label is expected among them. If outputs and classes differ in number, all labels are
    returned.
    """
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
    """Return the explanations of the last layer's gradient, with the smallest misfit first.

    Args:
        slope: The function for the slope of an example's loss.
        weight: Weight of the layer (C, d).
        bias: Bias of the layer (C,), or None.
        dweight: Gradient of the weight (C, d).
        dbias: Gradient of the bias (C,), or None.
        labels: The candidate labels.
    """
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
        found = [s for y in choose_labels(line.a, len(labels)) for s in line.solutions(y)]
    return sorted(found, key=lambda start: start.misfit)


def _misfit(delta: Tensor, caused: Tensor) -> float:
    """Return the norm of `delta - caused`, relative to that of delta."""
    return float((delta - caused).norm() / delta.norm())


def _best_of_each(found: list[Explained]) -> list[Explained]:
    """Return the best explanation of each label, with the best label first. `found` is sorted."""
    best: dict[int, Explained] = {}
    for one in found:
        best.setdefault(one.label, one)
    return list(best.values())


def _label_by_direction(head: SharedHead, slope: Slope, labels: Sequence[int]) -> int:
    """Return the label whose slope has the largest cosine with delta, at outputs that the gradient suggests."""
    if head.dbias is not None and bool(head.dbias.any()):
        delta = head.dbias
        features = head.dweight.T @ delta / delta.square().sum()
        z = (head.weight @ features).unsqueeze(0)
    else:
        # With cross-entropy, the entry of the true label is negative, and as large as the sum of all others.
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
    """The solutions without a bias: `delta = t * a` and `h = v / t`, with t of either sign.

    Args:
        a: Direction of delta (C,), of norm 1.
        v: Features (d,) at t = 1.
        weight: Weight of the layer (C, d).
        bias: Bias of the layer (C,), zeros if it has none.
        slope: The function for the slope of an example's loss.
    """

    a: Tensor
    v: Tensor
    weight: Tensor
    bias: Tensor
    slope: Slope

    def at(self, t: Tensor) -> Tensor:
        """Return the outputs (N, C) for each t (N,)."""
        return (self.weight @ self.v) / t.unsqueeze(1) + self.bias

    def misfits(self, t: Tensor, label: int) -> Tensor:
        """Return the relative difference between delta and the slope at the outputs, for each t (N,)."""
        delta = t.unsqueeze(1) * self.a
        left: Tensor = (delta - self.slope(self.at(t), label)).norm(dim=1)
        return left / t.abs()

    def solutions(self, label: int) -> list[Explained]:
        """Return the smallest local minima of the misfit along the line, refined."""
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
        """Return the explanation with the smallest misfit between two powers of ten of t."""

        def misfit(power: float) -> float:
            t = torch.tensor([sign * 10**power], dtype=torch.float64)
            return float(self.misfits(t, label)[0])

        best = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-14})
        t = sign * 10 ** float(best.x)
        return Explained(t * self.a, self.v / t, label, misfit(float(best.x)))
