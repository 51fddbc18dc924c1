"""Directions a whose outputs unit @ a are sparse: how they are sampled, refined and proven.

The direction of an example has output 0 wherever the example leaves the layer's output below zero.
The layer is linear, so a plane separates these outputs from the others: for some h, [W, b] h > 0
holds exactly at the others. The zeros and the known weights therefore describe the same pattern,
and each can correct the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.relu_layer import Factors

JITTER = 1e-13
"""Fraction of the mean diagonal that is added to a weighted Gram matrix, so that it always factorizes."""
GAIN = 6.0
"""Slope of the logistic function per standard deviation: how strongly the known weights count."""
FINEST = 1e-4
"""Last width of the descent, for outputs of size 1. If the noise is larger, the noise is used."""
SETTLING = 6
"""Number of steps of `settle`."""
MARGIN_STEPS = 16
"""Number of Newton steps of the classifier in `sortable`."""
LENGTHS = (1.0, 0.6, 0.35, 0.2, 0.1, 0.03)
"""Step lengths of its line search."""
RIDGE = 1e-6
"""Weight of the classifier's squared norm."""


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal draws in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def null_vectors(
    factors: Factors, count: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Return directions (count, B), each with B - 1 random outputs that are 0.

    Args:
        factors: The factorization of the gradient.
        count: Number of directions.
        generator: Source of the draws.
        weights: (count, m), how likely each output is drawn for each direction. All outputs are
            equally likely by default.
    """
    size = factors.batch
    uniform = torch.rand((count, len(factors.unit)), generator=generator, dtype=torch.float64)
    # The largest values of u^(1 / w) give a weighted sample without replacement (Efraimidis and
    # Spirakis 2006).
    keys = uniform.clamp_min(1e-300).log() / (1.0 if weights is None else weights.clamp_min(1e-12))
    chosen = factors.unit[keys.topk(size - 1, dim=1).indices]
    # One step of inverse iteration from any vector gives the null vector of the Gram matrix.
    return solve(chosen.transpose(1, 2) @ chosen, randn(generator, count, size))


def solve(gram: Tensor, vectors: Tensor) -> Tensor:
    """Return gram^-1 vectors (N, B), scaled to length 1."""
    size = gram.shape[-1]
    lift = JITTER * gram.diagonal(dim1=1, dim2=2).mean(1)
    gram = gram + lift[:, None, None] * torch.eye(size, dtype=gram.dtype)
    factor = torch.linalg.cholesky(gram)
    return normalize(torch.cholesky_solve(vectors.unsqueeze(2), factor).squeeze(2), dim=1)


class Products:
    """Outer products of rows (m, B) with themselves, for weighted sums. They are symmetric, so half is stored."""

    def __init__(self, rows: Tensor) -> None:
        size = rows.shape[1]
        i, j = torch.tril_indices(size, size)
        self.stored = rows[:, i] * rows[:, j]
        self.place = torch.zeros((size, size), dtype=torch.long)
        self.place[i, j] = self.place[j, i] = torch.arange(len(i))

    def weighted(self, weights: Tensor) -> Tensor:
        """Return sum_i weights_ni rows_i rows_i' (N, B, B), for weights (N, m)."""
        return (weights @ self.stored)[:, self.place]


def descend(
    factors: Factors,
    starts: Tensor,
    *,
    steps: int,
    widest: float = 1.0,
    planes: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return local minima of sum_i log(u_i^2 + e^2), where u = unit @ a and the width e falls.

    The method is iteratively reweighted least squares.

    Args:
        factors: The factorization of the gradient.
        starts: (N, B), initial directions a.
        steps: Number of steps.
        widest: First value of the width e.
        planes: (m, r), an orthonormal basis of the patterns that the known weights allow. Outputs
            that this basis places below zero get larger weights.
        weights: (N, m), weights of the first step.
    """
    unit, products, found = factors.unit, Products(factors.unit), starts
    for step in range(steps):
        if step or weights is None:
            width = widest * (FINEST / widest) ** (step / max(1, steps - 1))
            square = (found @ unit.T).square()
            weights = 1 / (square + width**2 + factors.noise(found).square())
            if planes is not None:
                weights = weights * probability_below(square * weights - 0.5, planes)
        found = solve(products.weighted(weights), found)
    return found


def probability_below(pattern: Tensor, planes: Tensor) -> Tensor:
    """Return the probability (N, m) that each output is below zero.

    The pattern is high at outputs that seem above zero.
    """
    value = pattern @ planes @ planes.T
    return torch.sigmoid(-GAIN * value / value.std(dim=1, keepdim=True))


@dataclass(frozen=True)
class Allowed:
    """Patterns p of pre-activations that other examples can have.

    Args:
        planes: (m, r), basis of the pre-activations that p gives. Each p satisfies p . a = 0 for
            each direction a found.
        back: (r, B), map from coordinates in this basis to p.
    """

    planes: Tensor
    back: Tensor

    @classmethod
    def beside(cls, factors: Factors, found: Tensor) -> Allowed:
        """Return the patterns that are possible besides the directions `found` (k, B), k < B."""
        size = factors.batch
        free = torch.eye(size, dtype=found.dtype)
        if len(found):
            free = torch.linalg.svd(found, full_matrices=True).Vh[len(found) :].T
        planes, triangle = torch.linalg.qr(factors.layer @ free)
        return cls(planes, torch.linalg.pinv(triangle).T @ free.T)

    def draw(
        self, factors: Factors, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return starts (count, B), and weights (count, m) of random allowed patterns."""
        mixed = randn(generator, count, self.planes.shape[1])
        # The last entry of h is 1. Its sign distinguishes the two sides of a plane.
        mixed = mixed * (mixed @ (self.back @ factors.last)).sign().unsqueeze(1)
        return (
            normalize(randn(generator, count, factors.batch), dim=1),
            probability_below(mixed @ self.planes.T, self.planes),
        )


def settle(factors: Factors, found: Tensor) -> Tensor:
    """Return the directions (N, B), solved again from their outputs that are zero within the noise.

    The first steps use Cauchy weights, so that an output that is small but not zero loses its
    influence. The last step weighs all zeros equally.
    """
    size = factors.batch
    products = Products(factors.rows)
    for step in range(SETTLING):
        output = (found @ factors.unit.T).abs() / factors.noise(found)
        weights = 1 / (1 + output.square())
        if step == SETTLING - 1:
            least = output.kthvalue(size - 1, dim=1, keepdim=True).values
            weights = (output <= least.clamp_min(factors.within)).double()
        # Solve in the basis of the rows, where noise is equal in all directions.
        direction = solve(products.weighted(weights), found @ factors.basis.T)
        found = normalize(torch.linalg.solve(factors.basis, direction.T).T, dim=1)
    return found


def sortable(planes: Tensor, zero: Tensor) -> Tensor:
    """Return the fraction (N,) of outputs that a plane sorts as the mask `zero` (N, m) does.

    The plane lies in the span of `planes` (m, r). It is that of a squared-hinge classifier, fitted
    by Newton's method with a line search. A plane can separate zero and other outputs completely
    only for a true pattern.
    """
    basis = planes * zero.shape[1] ** 0.5
    sign = 1 - 2 * zero.double()
    size, height = basis.shape[1], len(basis)
    products = Products(basis)
    ridge = RIDGE * torch.eye(size, dtype=basis.dtype)
    value, plane = torch.zeros_like(sign), basis.new_zeros(len(zero), size)
    lengths = torch.tensor(LENGTHS, dtype=basis.dtype)
    for _ in range(MARGIN_STEPS):
        close = (sign * value < 1).double()
        gram = products.weighted(close / height) + ridge
        step = torch.linalg.solve(gram, (close * sign) @ basis / height) - plane
        move = step @ basis.T
        each = lengths[:, None, None]
        tried = (1 - sign * (value + each * move)).clamp_min(0).square().mean(2)
        tried = tried + RIDGE * (plane + each * step).square().sum(2)
        length = lengths[tried.argmin(0)].unsqueeze(1)
        value, plane = value + length * move, plane + length * step
    return (value * sign > 0).double().mean(1)
