"""Nonlinear least squares for each example of a batch alone.

References:
    Ours. The damping is that of Levenberg and Marquardt: Nocedal, Wright. Numerical Optimization,
    section 10.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.image import Minimum

DAMPING = 1e-6
"""First damping."""
SOLVED = 1e-4
"""Relative residual at which the linear system of a step counts as solved."""
FRACTIONS = (1.0, 0.5, 0.25, 0.1)
"""Fractions of a step that are tried."""
SQUARES, INNER = 25, 100
"""Number of steps of least squares at the end of a search, and of conjugate gradient iterations of each."""
MOST = SQUARES * (INNER + len(FRACTIONS)) + 1
"""Largest number of evaluations of these."""
MATCHED = 0.1
"""Fraction of the objective to which least squares must come."""
SLOW, PATIENCE = 0.8, 2
"""An example is left after this many steps in a row that keep more than this fraction of its value."""


class Linear(Protocol):
    """The derivative J of residuals at one point."""

    def forward(self, direction: Tensor) -> Tensor:
        """Return J d `(n, R)` for directions `(n, *shape)`."""
        ...

    def back(self, gap: Tensor) -> Tensor:
        """Return the product `(n, *shape)` of the transpose with gaps `(n, R)`."""
        ...


class Residuals(Protocol):
    """Residuals of examples. Those of one example depend on it alone."""

    def at(self, which: Tensor, inputs: Tensor) -> Tensor:
        """Return the residuals (n, R) of the examples of these indices at inputs `(n, *shape)`, in float64."""
        ...

    def linear(self, which: Tensor, inputs: Tensor) -> Linear:
        """Return the derivative at inputs, in float32. Its errors cost steps, not digits."""
        ...


def solve_each(
    residuals: Residuals,
    start: Tensor,
    *,
    steps: int,
    inner: int,
    tell: Callable[[int, Tensor, Tensor], None] = lambda step, inputs, values: None,
) -> Minimum:
    r"""Return a minimum of :math:`|r(x)|^2` for each example of a batch.

    Each step solves :math:`(J^\top J + \lambda) d = -J^\top r` by conjugate gradients.

    Args:
        residuals: The residuals r and their derivatives J.
        start: Inputs `(B, *shape)` to start from.
        steps: Largest number of steps.
        inner: Largest number of conjugate gradient iterations of a step.
        tell: Receives the number of steps, the inputs and their values after each step.
    """
    x, spent = start.double(), 1
    with torch.no_grad():
        gap = residuals.at(torch.arange(len(x)), x)
    values = gap.square().sum(1)
    damping = torch.full_like(values, DAMPING)
    slow = torch.zeros(len(x), dtype=torch.long)
    for step in range(steps):
        left = ((slow < PATIENCE) & (values > 0)).nonzero()[:, 0]
        if not len(left):
            break
        linear = residuals.linear(left, x[left])
        way, used = _step(linear, gap[left], damping[left], inner)
        before = values[left]
        size, tried = _move(residuals, left, way, x, gap, values)
        factor = torch.where(size == 1, 0.1, torch.where(size > 0, 3.0, 10.0))
        damping[left] *= factor
        slow[left] = torch.where(values[left] > SLOW * before, slow[left] + 1, 0)
        spent += tried + used
        tell(step + 1, x, values)
    return Minimum(x, values, spent)


def _move(
    residuals: Residuals, left: Tensor, way: Tensor, x: Tensor, gap: Tensor, values: Tensor
) -> tuple[Tensor, int]:
    """Move examples by the largest fraction of their step that lowers their value.

    Args:
        residuals: The residuals.
        left: Indices (n,) of the examples to move.
        way: Their steps `(n, *shape)`.
        x: Inputs `(B, *shape)` of all examples. They change in place, as do the next two.
        gap: Residuals (B, R).
        values: Values (B,).

    Returns:
        The fraction (n,) of each step, 0 if none lowers the value, and the number of evaluations.
    """
    size, spent = torch.zeros_like(values[left]), 0
    for fraction in FRACTIONS:
        open_ = left[size == 0]
        trial = x[open_] + fraction * way[size == 0]
        with torch.no_grad():
            found = residuals.at(open_, trial)
        after = found.square().sum(1)
        good = after < values[open_]
        chosen = open_[good]
        x[chosen], gap[chosen], values[chosen] = trial[good], found[good], after[good]
        size[(size == 0).nonzero()[good, 0]] = fraction
        spent += 1
        if bool((size > 0).all()):
            break
    return size, spent


def _step(linear: Linear, gap: Tensor, damping: Tensor, inner: int) -> tuple[Tensor, int]:
    """Return the step `(n, *shape)` of each example, and the number of iterations."""
    # Unit residuals keep small numbers in the range of float32.
    size = gap.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    rest = linear.back(-(gap / size).float())
    spread = (-1, *[1] * (rest.ndim - 1))
    damping = damping.float().reshape(spread)
    found, way = torch.zeros_like(rest), rest
    rho = rest.square().flatten(1).sum(1)
    first = rho.clamp_min(torch.finfo(rest.dtype).tiny)
    iterations = 0
    while iterations < inner:
        iterations += 1
        image = linear.back(linear.forward(way)) + damping * way
        along = (way * image).flatten(1).sum(1)
        open_ = (rho > SOLVED**2 * first) & (along > 0)
        if not bool(open_.any()):
            break
        length = torch.where(open_, rho / torch.where(open_, along, 1), 0).reshape(spread)
        found, rest = found + length * way, rest - length * image
        after = rest.square().flatten(1).sum(1)
        turn = torch.where(open_, after / rho.clamp_min(torch.finfo(rho.dtype).tiny), 0)
        way, rho = rest + turn.reshape(spread) * way, after
    return found.double() * size.reshape(spread), iterations


def finished(residuals: Residuals, start: Minimum, close: float, least: float = MATCHED) -> Minimum:
    """Return the end of least squares from some images, or these where it finds no match.

    At a local minimum, steps without a prior only carry noise into the image.

    Args:
        residuals: The residuals.
        start: The images, their values, and the number of evaluations before.
        close: Value that counts as a match.
        least: Fraction of the value to which least squares must come otherwise.
    """
    end = solve_each(residuals, start.inputs, steps=SQUARES, inner=INNER)
    matched = (end.values < least * start.values) | (end.values < close)
    spread = matched.reshape(-1, *[1] * (end.inputs.ndim - 1))
    return Minimum(
        torch.where(spread, end.inputs, start.inputs.double()),
        torch.where(matched, end.values, start.values.double()),
        start.evaluations + end.evaluations,
    )
