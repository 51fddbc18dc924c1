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
TELLING = 0.5
"""Ratio of the misfits from which on examples have factors of their own."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """Scales and labels of the examples of a batch.

    Args:
        scales: (B,), factor of each input.
        labels: (B,), class indices.
        misfit: Relative misfit of the last layer's gradient.
        weights: (B,), factor of each example's gradient. 1 unless the client clipped it.
    """

    scales: Tensor
    labels: Tensor
    misfit: float
    weights: Tensor

    @property
    def said(self) -> str:
        """The factors of the gradients for a note, or nothing if all are 1."""
        if bool((self.weights == 1).all()):
            return ""
        least, most = float(self.weights.min()), float(self.weights.max())
        return f", with gradients of examples scaled by {least:.2g} to {most:.2g}"


def scale_and_label(
    features: Features,
    layer: Layer,
    link: LossLink,
    count: int,
    *,
    center: Tensor,
    together: bool = False,
    fits: float = FITS,
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
        fits: Largest relative misfit of the last layer's gradient at which they are believed.
    """
    found = _best(_Fit(features, layer, link, count, together=together), center)
    if found.misfit > FITS and not together:
        # A client that clips scales the gradient of each example.
        free = _best(_Fit(features, layer, link, count, free=True), center)
        if free.misfit < TELLING * found.misfit and bool((free.weights > 0).all()):
            found = free
    if found.misfit > fits:
        return Inapplicable(
            f"no scales and labels of the examples fit the last layer (relative misfit {found.misfit:.0e})"
        )
    return Scaled(found.scales, found.labels, found.misfit, found.weights)


def _best(fit: _Fit, center: Tensor) -> _State:
    """Return the best state of a fit, from scales on a grid."""
    best = None
    for factor in torch.logspace(-3, 3, GRID, dtype=torch.float64):
        start = fit.labeled(center * float(factor))
        if best is None or start.misfit < best.misfit:
            best = start
    assert best is not None
    starts = (best,) if fit.together else (best, fit.one_by_one(best))
    return min((fit.descend(one) for one in starts), key=lambda s: s.misfit)


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
        weights: (B,), factor of each example's gradient.
    """

    scales: Tensor
    labels: Tensor
    misfit: float
    rows: Tensor
    mixed: Tensor
    weights: Tensor


class _Fit:
    """The fit of scales to the gradient of one last layer.

    If `free` is true, the gradient of each example has an unknown factor.
    """

    def __init__(
        self,
        features: Features,
        layer: Layer,
        link: LossLink,
        count: int,
        *,
        together: bool = False,
        free: bool = False,
    ) -> None:
        self.together = together
        self.features, self.layer, self.link, self.count = features, layer, link, count
        self.free = free
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

    def labeled(self, scales: Tensor) -> _State:
        """Return scales with the labels, and the factors, that they suggest."""
        rows = self.rows(scales)
        mixed = self.aim @ torch.linalg.pinv(rows)
        labels = mixed.argmin(0)
        slopes = self.slopes(rows, labels)
        weights = torch.ones_like(scales)
        if self.free:
            weights = (mixed.T * slopes).sum(1) / slopes.square().sum(1).clamp_min(1e-30)
        gap = self.aim - (weights[:, None] * slopes).T @ rows
        misfit = float(gap.norm() / self.aim.norm())
        return _State(scales, labels, misfit, rows, mixed, weights)

    def one_by_one(self, start: _State) -> _State:
        """Return scales that fit the column of each example alone, as if features were proportional to them."""
        width = self.layer.weight.shape[1]
        steps = torch.logspace(-3, 3, 50 * GRID, dtype=torch.float64)
        logits = start.rows[:, :width] @ self.layer.weight.T
        outputs = steps[:, None, None] * logits + self.bias  # (G, B, C)
        slopes = self.link.slopes(outputs, start.labels) / self.count
        shown = steps[:, None, None] * slopes
        if self.free:
            along = (start.mixed.T * shown).sum(2) / shown.square().sum(2).clamp_min(1e-30)
            shown = along[:, :, None] * shown
        gaps = (start.mixed.T - shown).norm(dim=2)
        return self.labeled(start.scales * steps[gaps.argmin(0)])

    def descend(self, start: _State) -> _State:
        """Return the scales after damped Gauss-Newton steps on their logarithms."""
        best, damping = start, 1e-6
        jacobian, gap = self.linearized(best)
        for _ in range(STEPS):
            gram = jacobian.T @ jacobian
            gram.diagonal().mul_(1 + damping)
            step = torch.linalg.solve(gram, jacobian.T @ gap)[: self.count].clamp(-1, 1)
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
        """Return the gradient's derivatives (C F, B) by the scales' logarithms, and its unexplained part (C F,).

        If factors are free, the derivatives by them follow (C F, 2 B).
        """
        change = self.rows(state.scales * (1 + PROBE))
        slopes, moved = (self.slopes(rows, state.labels) for rows in (state.rows, change))
        parts = slopes[:, :, None] * state.rows[:, None]
        after = moved[:, :, None] * change[:, None] - parts
        columns = (state.weights[:, None, None] * after / PROBE).flatten(1)
        if self.free:
            columns = torch.cat([columns, parts.flatten(1)])
        if self.together:
            columns = columns.sum(0, keepdim=True)
        gap = self.aim - (state.weights[:, None] * slopes).T @ state.rows
        return columns.T, gap.flatten()
