"""The scale and the label of each example, from the gradient of the last layer.

The inputs of single examples are known up to their scales. With them, the tail of the network gives
each example's features f_b, up to the same unknown. The gradient of the last layer is
`dW = sum_b delta_b f_b'`, with `delta_b = (act(W f_b + c) - target[y_b]) / B`. So
`dW F^+` shows each delta_b up to its scale. Its most negative entry is the label, and its size
fits one scale alone.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable

Features = Callable[[Tensor], Tensor]
"""Map from scales (n,) to the features (n, F) of the scaled inputs."""
GRID = 13
"""Number of common scales that are tried."""
STEPS = 40
"""Largest number of Gauss-Newton steps."""
PROBE = 1e-5
"""Relative change of a scale for the derivative of the features."""
FITS = 1e-3
"""Largest relative misfit of the last layer's gradient at which scales and labels are believed."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """Scales and labels of the examples of a batch.

    Args:
        scales: (B,), factor of each input.
        labels: (B,), class indices.
        misfit: Relative misfit of the last layer's gradient.
    """

    scales: Tensor
    labels: Tensor
    misfit: float


def scale_and_label(
    features: Features,
    layer: Layer,
    link: LossLink,
    count: int,
    *,
    center: Tensor,
    together: bool = False,
) -> Scaled | Inapplicable:
    """Return the scale and the label of each example, or the reason why none fit.

    Args:
        features: Map from scales to features.
        layer: The last layer with its mean gradient.
        link: The loss, of scale 1.
        count: Number of examples B.
        center: Scales (B,) around which the search starts, right up to a common factor.
        together: Whether only the common factor is sought. It must be if the features of one
            example depend on the scales of others.
    """
    fit = _Fit(features, layer, link, count, together)
    best = None
    for factor in torch.logspace(-3, 3, GRID, dtype=torch.float64):
        start = fit.labeled(center * float(factor))
        if best is None or start.misfit < best.misfit:
            best = start
    assert best is not None
    starts = (best,) if together else (best, fit.one_by_one(best))
    found = min((fit.descend(one) for one in starts), key=lambda s: s.misfit)
    if found.misfit > FITS:
        return Inapplicable(
            f"no scales and labels of the examples fit the last layer (relative misfit {found.misfit:.0e})"
        )
    return Scaled(found.scales, found.labels, found.misfit)


def slopes_of(layer: Layer, link: LossLink, features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss's derivatives (B, C) with respect to the last layer's outputs.

    Args:
        layer: The last layer.
        link: The loss, of scale 1.
        features: Features (B, F) of all examples.
        labels: Their class indices (B,).
    """
    outputs = features @ layer.weight.T
    if layer.bias is not None:
        outputs = outputs + layer.bias
    return link.slopes(outputs, labels) / len(features)


@dataclass(frozen=True, eq=False)
class _State:
    """Scales on the way.

    Args:
        scales: (B,), factor of each input.
        labels: (B,), class indices.
        misfit: Relative misfit of the last layer's gradient.
        rows: Features (B, F) at these scales, or (B, F + 1).
        mixed: (C, B), the derivatives at the outputs that the gradient shows for these features.
    """

    scales: Tensor
    labels: Tensor
    misfit: float
    rows: Tensor
    mixed: Tensor


class _Fit:
    """The fit of scales to the gradient of one last layer."""

    def __init__(
        self, features: Features, layer: Layer, link: LossLink, count: int, together: bool = False
    ) -> None:
        self.together = together
        self.features, self.layer, self.link, self.count = features, layer, link, count
        self.bias = 0.0 if layer.bias is None else layer.bias
        parts = [layer.dweight, *([] if layer.dbias is None else [layer.dbias[:, None]])]
        self.aim = torch.cat(parts, 1)

    def rows(self, scales: Tensor) -> Tensor:
        """Return the features (B, F), or (B, F + 1) with a column of ones if the bias has a gradient."""
        found = self.features(scales)
        if self.layer.dbias is None:
            return found
        return torch.cat([found, found.new_ones(len(found), 1)], 1)

    def slopes(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return delta (B, C) of examples with these features and labels."""
        width = self.layer.weight.shape[1]
        return slopes_of(self.layer, self.link, rows[:, :width], labels)

    def misfit(self, rows: Tensor, labels: Tensor) -> float:
        """Return the relative misfit of the gradient."""
        gap = self.aim - self.slopes(rows, labels).T @ rows
        return float(gap.norm() / self.aim.norm())

    def labeled(self, scales: Tensor) -> _State:
        """Return scales with the labels that they suggest."""
        rows = self.rows(scales)
        mixed = self.aim @ torch.linalg.pinv(rows)
        labels = mixed.argmin(0)
        return _State(scales, labels, self.misfit(rows, labels), rows, mixed)

    def one_by_one(self, start: _State) -> _State:
        """Return scales that fit the column of each example alone, as if features were proportional to them."""
        width = self.layer.weight.shape[1]
        steps = torch.logspace(-3, 3, 50 * GRID, dtype=torch.float64)
        logits = start.rows[:, :width] @ self.layer.weight.T
        outputs = steps[:, None, None] * logits + self.bias  # (G, B, C)
        slopes = self.link.slopes(outputs, start.labels) / self.count
        gaps = (start.mixed.T - steps[:, None, None] * slopes).norm(dim=2)
        return self.labeled(start.scales * steps[gaps.argmin(0)])

    def descend(self, start: _State) -> _State:
        """Return the scales after damped Gauss-Newton steps on their logarithms."""
        best, damping = start, 1e-6
        jacobian, gap = self.linearized(best)
        for _ in range(STEPS):
            gram = jacobian.T @ jacobian
            gram.diagonal().mul_(1 + damping)
            step = torch.linalg.solve(gram, jacobian.T @ gap).clamp(-1, 1)
            trial = self.labeled(best.scales * step.exp())
            if trial.misfit < best.misfit:
                done = trial.misfit > (1 - 1e-3) * best.misfit
                best, damping = trial, damping / 10
                if done:
                    break
                jacobian, gap = self.linearized(best)
            else:
                damping = max(damping, 1e-6) * 10
                if damping > 1e6:
                    break
        return best

    def linearized(self, state: _State) -> tuple[Tensor, Tensor]:
        """Return the gradient's derivatives (C F, B) by the scales' logarithms, and its unexplained part (C F,)."""
        change = self.rows(state.scales * (1 + PROBE))
        slopes, moved = (self.slopes(rows, state.labels) for rows in (state.rows, change))
        after = moved[:, :, None] * change[:, None] - slopes[:, :, None] * state.rows[:, None]
        jacobian = (after / PROBE).flatten(1).T
        if self.together:
            jacobian = jacobian.sum(1, keepdim=True)
        return jacobian, (self.aim - slopes.T @ state.rows).flatten()
