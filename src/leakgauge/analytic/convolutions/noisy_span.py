"""The span of a convolution's inputs from a gradient with errors: both factors by weighted least squares.

The row space of a gradient with errors no longer holds all patches. Its defects are then a start only.
The most likely inputs u and signals Delta under Gaussian errors minimize

    sum_ock weight_ock (dW_ock - sum_p Delta_op u_c,p+k)^2

over both. A damped Gauss-Newton method finds them. Its linear systems are solved by conjugate
gradients. Entries that were not sent have a small weight.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.core.pulse import Beat, quiet

STEPS, INNER = 25, 40
"""Largest number of Gauss-Newton steps, and of iterations of conjugate gradients in each."""
SETTLED = 1e-3
"""Relative decrease of the misfit below which the search ends."""
DAMPING = 1e-3
"""First damping, relative to the normal equations."""
TOGETHER = 4.0
"""Factor of the expected error if entries were not sent. Those of a faint channel err together."""

Pair = tuple[Tensor, Tensor]
"""Signals (O, n P) and inputs (n, C, N)."""


@dataclass(frozen=True, eq=False)
class Refined:
    """The most likely span under errors.

    Args:
        basis: Orthonormal rows (n, C, N).
        misfit: Weighted root mean square of what is not explained, relative to that of the gradient.
        error: Expected error of the basis, as the sine of an angle.
    """

    basis: Tensor
    misfit: float
    error: float


@dataclass(frozen=True, eq=False)
class Bilinear:
    """A gradient as the product of signals and patches.

    Args:
        dweight: The gradient (O, C, K).
        geometry: The places that the convolution reads.
        weights: Weights (O, C, K) of its entries, or None if all are 1.
    """

    dweight: Tensor
    geometry: Geometry
    weights: Tensor | None = None

    @cached_property
    def roots(self) -> Tensor | None:
        """Roots (O, C K) of the weights."""
        return None if self.weights is None else self.weights.flatten(1).sqrt()

    def weighed(self, rows: Tensor) -> Tensor:
        """Return rows (O, C K) times the roots of the weights."""
        return rows if self.roots is None else rows * self.roots

    def patches(self, inputs: Tensor) -> Tensor:
        """Return the patches (n P, C K) of inputs (n, C, N)."""
        return self.geometry.unfold(inputs).movedim(-3, -2).flatten(-2).flatten(0, 1)

    def folded(self, rows: Tensor, count: int) -> Tensor:
        """Return inputs (n, C, N), the adjoint of `patches`."""
        channels, taps = self.dweight.shape[1:]
        split = rows.reshape(count, -1, channels, taps).movedim(2, 1)
        return self.geometry.fold(split)

    def signals(self, inputs: Tensor) -> Tensor:
        """Return the signals (O, n P) that fit best to inputs if all weights are 1."""
        patches = self.patches(inputs)
        found: Tensor = torch.linalg.lstsq(
            patches.T, self.dweight.flatten(1).T, driver="gelsd"
        ).solution.T
        return found

    def gap(self, pair: Pair) -> Tensor:
        """Return what signals and inputs leave unexplained (O, C K), weighed."""
        return self.weighed(self.dweight.flatten(1) - pair[0] @ self.patches(pair[1]))

    def reading(self, signals: Tensor, count: int) -> Tensor:
        """Return the matrix (O K, n N) from one input channel to its entries."""
        geometry = self.geometry
        split = signals.reshape(len(signals), count, -1)
        found = signals.new_zeros(len(signals), geometry.taps, count, geometry.places + 1)
        for tap in range(geometry.taps):
            found[:, tap].index_add_(2, geometry.sees[:, tap], split)
        return found[..., : geometry.places].flatten(2).flatten(0, 1)


class _Linearized:
    """The normal equations of a bilinear problem around a pair, with a preconditioner from equal weights."""

    def __init__(self, problem: Bilinear, pair: Pair, damping: float) -> None:
        self.problem, self.pair, self.damping = problem, pair, damping
        self.patches = problem.patches(pair[1])
        reading = problem.reading(pair[0], len(pair[1]))
        self.grams = self.patches @ self.patches.T, reading.T @ reading
        self.factors = [_factor(gram, damping) for gram in self.grams]

    def forward(self, step: Pair) -> Tensor:
        """Return the change (O, C K) of the weighed product."""
        change = step[0] @ self.patches + self.pair[0] @ self.problem.patches(step[1])
        return self.problem.weighed(change)

    def back(self, gap: Tensor) -> Pair:
        """Return the adjoint of `forward`."""
        gap = self.problem.weighed(gap)
        count = len(self.pair[1])
        return gap @ self.patches.T, self.problem.folded(self.pair[0].T @ gap, count)

    def normal(self, step: Pair) -> Pair:
        """Return the damped normal equations' image of a step."""
        left, right = self.back(self.forward(step))
        scales = [self.damping * gram.diagonal().mean() for gram in self.grams]
        return left + scales[0] * step[0], right + scales[1] * step[1]

    def precondition(self, gap: Pair) -> Pair:
        """Return the solution of each block alone, for equal weights."""
        signals: Tensor = torch.cholesky_solve(gap[0].T, self.factors[0]).T
        flat = gap[1].movedim(1, 0).flatten(1)  # (C, n N)
        inputs = torch.cholesky_solve(flat.T, self.factors[1]).T
        return signals, inputs.reshape(len(flat), len(gap[1]), -1).movedim(0, 1)

    def solve(self, right: Pair) -> Pair:
        """Return the solution by preconditioned conjugate gradients."""
        found = tuple(torch.zeros_like(t) for t in right)
        rest = right
        way = near = self.precondition(rest)
        size = first = _inner(rest, near)
        for _ in range(INNER):
            if size <= 1e-6 * first:
                break
            image = self.normal(way)
            length = size / _inner(way, image)
            found = tuple(f + length * w for f, w in zip(found, way, strict=True))
            rest = (rest[0] - length * image[0], rest[1] - length * image[1])
            near = self.precondition(rest)
            size, before = _inner(rest, near), size
            way = (near[0] + size / before * way[0], near[1] + size / before * way[1])
        return found[0], found[1]


def refine(
    problem: Bilinear,
    start: Tensor,
    *,
    sigma: float,
    generator: torch.Generator,
    beat: Beat = quiet,
) -> Refined:
    """Return the most likely span near a start.

    Args:
        problem: The gradient with its weights.
        start: Orthonormal rows (n, C, N).
        sigma: Standard deviation of an entry of weight 1.
        generator: Source of the draw that tells the expected error.
        beat: Called in each step.
    """
    pair = problem.signals(start), start
    damping = DAMPING
    value = float(problem.gap(pair).square().sum())
    enough = sigma**2 * problem.dweight.numel()
    for _ in range(STEPS):
        beat()
        system = _Linearized(problem, pair, damping)
        step = system.solve(system.back(problem.gap(pair)))
        trial = pair[0] + step[0], pair[1] + step[1]
        after = float(problem.gap(trial).square().sum())
        if after >= value:
            damping *= 10
            if damping > 1e3:
                break
            continue
        done = value - after < SETTLED * value or (problem.roots is not None and after < enough)
        pair, value, damping = trial, after, max(damping / 10, 1e-9)
        if done:
            break
    basis = torch.linalg.qr(pair[1].flatten(1).T)[0].T.reshape(start.shape).contiguous()
    whole = float(problem.weighed(problem.dweight.flatten(1)).square().sum())
    misfit = math.sqrt(value / whole)
    seen = math.sqrt(value / problem.dweight.numel())
    # The misfit shows errors that nothing announced.
    error = _expected(problem, pair, max(sigma, seen), generator)
    if problem.roots is not None:
        error *= TOGETHER
    return Refined(basis, misfit, error)


def _expected(problem: Bilinear, pair: Pair, sigma: float, generator: torch.Generator) -> float:
    """Return the expected error of the span, from a random trace of the inverse normal equations."""
    inputs = pair[1]
    flat = inputs.flatten(1)
    draw = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat).sign()
    across = torch.linalg.qr(flat.T)[0]
    # Combinations of the inputs themselves are no error of their span.
    draw = draw - (draw @ across) @ across.T
    system = _Linearized(problem, pair, 1e-7)
    found = system.solve((torch.zeros_like(pair[0]), draw.reshape(inputs.shape)))
    variance = sigma**2 * float((found[1].flatten(1) * draw).sum())
    least = float(torch.linalg.svdvals(flat)[-1])
    return math.sqrt(max(variance, 0.0) / len(inputs)) / max(least, 1e-30)


def _factor(gram: Tensor, damping: float) -> Tensor:
    """Return the Cholesky factor of a damped Gram matrix."""
    ridge = max(damping, 1e-9) * gram.diagonal().mean()
    found: Tensor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)).to(gram))
    return found


def _inner(left: Pair, right: Pair) -> float:
    """Return the inner product of two pairs."""
    return float((left[0] * right[0]).sum() + (left[1] * right[1]).sum())
