"""The exact images of a batch, with the contrast that BatchNorm in train mode almost removes.

BatchNorm behind the first convolution divides by the deviation over the batch. So all activations
hardly change if the contrast of all images changes by one common factor. Only the small eps of
BatchNorm tells it. A descent by first derivatives never finds it. Gauss-Newton steps do, if this
direction is eliminated. Let J be the derivatives of the residual r, s the direction, and `S = J s`.
Conjugate gradients without s solve `J x = -r` and `J y = -S`. What is left of r and S fixes the factor.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.conjugate_gradient import conjugate_gradient
from leakgauge.core.pulse import Beat, quiet

ITERATIONS, SOLVED = 40, 1e-6
"""Number of conjugate gradient iterations of one solution, and the residual that ends them."""
STEPS = 4
"""Largest number of Gauss-Newton steps."""
GAIN = 0.7
"""Fraction of the sum of squares that a step may leave if another step is to follow."""

Residual = Callable[[Tensor], Tensor]
"""Map from an unknown to the residual (n,)."""


def gauss_newton(
    residual: Residual,
    start: Tensor,
    direction: Callable[[Tensor], Tensor],
    beat: Beat = quiet,
) -> Tensor:
    """Return the unknown after Gauss-Newton steps with one faint direction eliminated.

    Args:
        residual: Map from the unknown to the residual.
        start: The unknown, near the solution.
        direction: Map from the unknown to the faint direction.
        beat: Called in each iteration of a solution.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.contrast import gauss_newton
        >>> sizes = torch.tensor([1.0, 2.0, 1e-4], dtype=torch.float64)
        >>> faint = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        >>> found = gauss_newton(lambda c: sizes * (c - 3), torch.zeros_like(sizes), lambda c: faint)
        >>> [round(value, 6) for value in found.tolist()]
        [3.0, 3.0, 3.0]
    """
    found, least = start, float(residual(start).square().sum())
    other: Tensor | None = None
    solve = partial(conjugate_gradient, iterations=ITERATIONS, solved=SOLVED)
    for _ in range(STEPS):
        faint = direction(found)
        faint = faint / faint.norm()
        gap, back = _with_adjoint(residual, found)

        def forward(z: Tensor, at: Tensor = found) -> Tensor:
            return torch.func.jvp(residual, (at,), (z,))[1]  # type: ignore[no-any-return]

        def normal(z: Tensor, faint: Tensor = faint, back: Residual = back) -> Tensor:
            beat()
            return _without(back(forward(z)), faint)

        image = forward(faint)
        step = solve(normal, _without(-back(gap), faint))
        if other is None:
            other = solve(normal, _without(-back(image), faint))
        left, kept = gap + forward(step), image + forward(other)
        factor = -(left * kept).sum() / kept.square().sum()
        trial = found + step + factor * (faint + other)
        after = float(residual(trial).square().sum())
        if not after < least:
            break
        found, done = trial, after > GAIN * least
        least = after
        if done:
            break
    return found


def _with_adjoint(residual: Residual, at: Tensor) -> tuple[Tensor, Residual]:
    """Return the residual at a point, and the adjoint of its derivative there."""
    gap, back, *_ = torch.func.vjp(residual, at)

    def adjoint(vector: Tensor) -> Tensor:
        return back(vector)[0]  # type: ignore[no-any-return]

    return gap, adjoint


def _without(vector: Tensor, faint: Tensor) -> Tensor:
    """Return a vector without its part along a unit vector."""
    return vector - (vector * faint).sum() * faint
