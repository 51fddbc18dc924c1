"""The two factors of a convolution's weight gradient, each between bounds, by alternating least squares.

The gradient of the weight of a convolution is `dW = Delta V`. Row p of V is the patch that output
position p reads, and column p of Delta is the signal there. Both factors often have bounds. A signal
that a ReLU passes or stops is between 0 and its full size, and inputs behind a ReLU are at least 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry

STIFFNESS = 0.1
"""Penalty of the splitting, relative to the mean diagonal entry of the normal equations."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The signals and the inputs of a convolution.

    Args:
        signals: (O, B, P), the signal of each output channel, example and position.
        inputs: (B, C, N), the inputs.
    """

    signals: Tensor
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class BoundedProblem:
    """A weight gradient and the bounds of its factors.

    Args:
        rows: (O, C, K), the gradient. Rows of equal size have equal weight.
        lower: (O, B, P), least signals.
        upper: (O, B, P), largest signals.
        geometry: The places that the convolution reads.
        sums: (O,), the sum of each channel's signals over examples and positions, or None if it is
            not known.
        stiffness: Penalty of the splitting, relative to the mean diagonal entry of the normal equations.
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor
    geometry: Geometry
    sums: Tensor | None = None
    stiffness: float = STIFFNESS

    def signals(self, inputs: Tensor, near: Tensor, rounds: int, doubt: float = 0.0) -> Tensor:
        """Return the signals (O, B, P) within the bounds that fit best to inputs, from a start.

        Args:
            inputs: (B, C, N), the inputs.
            near: (O, B, P), the start.
            rounds: Number of iterations.
            doubt: Weight of a pull to the middle of the bounds. At 1 it counts as much as the misfit
                of the start would make it, were all misfit noise. It vanishes with the misfit.
        """
        patches = patches_of(inputs, self.geometry)
        gram, right = patches @ patches.T, self.rows.flatten(1) @ patches.T
        if self.sums is not None:
            weight = gram.diagonal().mean() / self.geometry.positions
            gram, right = gram + weight, right + weight * self.sums[:, None]
        if doubt:
            misfit = (self.rows.flatten(1) - near.flatten(1) @ patches).pow(2).mean()
            spread = ((self.upper - self.lower) / 2).pow(2).mean((0, 2)).clamp_min(1e-12)
            pull = (doubt * misfit / spread).repeat_interleave(self.geometry.positions)
            gram = gram + torch.diag(pull)
            right = right + pull * ((self.lower + self.upper) / 2).flatten(1)
        found = solve_within(
            gram,
            right,
            self.lower.flatten(1),
            self.upper.flatten(1),
            near.flatten(1),
            rounds,
            self.stiffness,
        )
        return found.reshape(self.lower.shape)

    def inputs(
        self, signals: Tensor, near: Tensor, rounds: int, pull: tuple[Tensor, float] | None = None
    ) -> Tensor:
        """Return the inputs (B, C, N) of at least 0 that fit best to signals, from a start.

        Args:
            signals: (O, B, P), the signals.
            near: (B, C, N), the start.
            rounds: Number of iterations.
            pull: Sums (B, C, N) of the taps of wanted patches that read each place, and the weight
                of the distance from these patches. 1 is the weight of the gradient.
        """
        reading = readings_of(signals, self.geometry)
        gram = reading.T @ reading
        right = self.rows.movedim(1, 0).flatten(1) @ reading
        if pull is not None:
            wanted, weight = pull
            reads = self.geometry.reads.to(gram)
            sizes = weight * gram.diagonal().reshape(len(near), -1).mean(1) / reads.mean()
            gram = gram + torch.diag((sizes[:, None] * reads).flatten())
            right = right + (sizes[:, None, None] * wanted).movedim(0, 1).flatten(1)
        start = near.movedim(0, 1).flatten(1)
        least, most = torch.zeros_like(start), torch.full_like(start, torch.inf)
        found = solve_within(gram, right, least, most, start, rounds, self.stiffness)
        return found.reshape(len(found), len(near), -1).movedim(1, 0)

    def free_inputs(self, signals: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the inputs (B, C, N) that fit best to signals, without bounds.

        Args:
            signals: (O, B, P), the signals.
            weights: (O,), weights of the rows, by default equal.
        """
        rows = self.rows
        if weights is not None:
            rows, signals = rows * weights[:, None, None], signals * weights[:, None, None]
        reading = readings_of(signals, self.geometry)
        found: Tensor = torch.linalg.lstsq(
            reading, rows.movedim(1, 0).flatten(1).T, driver="gelsd"
        ).solution
        return found.T.reshape(rows.shape[1], signals.shape[1], -1).movedim(1, 0)

    def misfits(self, factors: Factors) -> Tensor:
        """Return the norm (O,) of each row that the factors leave unexplained, relative to its norm."""
        rows = self.rows.flatten(1)
        explained = factors.signals.flatten(1) @ patches_of(factors.inputs, self.geometry)
        left: Tensor = (rows - explained).norm(dim=1) / rows.norm(dim=1)
        return left

    def residual(self, factors: Factors) -> float:
        """Return the norm of the gradient that the factors leave unexplained, relative to its norm."""
        rows = self.rows.flatten(1)
        explained = factors.signals.flatten(1) @ patches_of(factors.inputs, self.geometry)
        return float((rows - explained).norm() / rows.norm())

    def sweep(self, factors: Factors, rounds: int) -> Factors:
        """Return the factors after one update of the signals and one of the inputs."""
        signals = self.signals(factors.inputs, factors.signals, rounds)
        return Factors(signals, self.inputs(signals, factors.inputs, rounds))


def patches_of(inputs: Tensor, geometry: Geometry) -> Tensor:
    """Return the patches (B P, C K) of inputs (B, C, N)."""
    return geometry.unfold(inputs).movedim(-2, -3).flatten(-2).flatten(0, 1)


def readings_of(signals: Tensor, geometry: Geometry) -> Tensor:
    """Return the matrix (O K, B N) that maps one channel of the inputs to its part of the gradient.

    Entry `(o K + k, b N + n)` is the sum of the signals of channel o and example b over all
    positions whose tap k reads place n.
    """
    outputs, batch, _ = signals.shape
    shape = (outputs, batch, geometry.taps, geometry.places + 1)
    into = signals.new_zeros(shape)
    where = geometry.sees.T.expand(outputs, batch, -1, -1)
    into.scatter_add_(3, where, signals[:, :, None].expand(where.shape))
    return into[..., : geometry.places].movedim(1, 2).flatten(2).flatten(0, 1)


def solve_within(
    gram: Tensor,
    right: Tensor,
    lower: Tensor,
    upper: Tensor,
    start: Tensor,
    rounds: int,
    stiffness: float = STIFFNESS,
) -> Tensor:
    """Return rows x between bounds that nearly minimize `x gram x' / 2 - right x'`.

    The alternating direction method of multipliers inverts the matrix once for all rows.

    Args:
        gram: Positive semidefinite matrix (n, n).
        right: (R, n), one right-hand side for each row.
        lower: (R, n), least values.
        upper: (R, n), largest values.
        start: (R, n), the start.
        rounds: Number of iterations.
        stiffness: Penalty of the splitting, relative to the mean diagonal entry of the matrix.
    """
    stiff = stiffness * float(gram.diagonal().mean()) + torch.finfo(gram.dtype).tiny
    inverse = torch.linalg.inv(gram + stiff * torch.eye(len(gram)).to(gram))
    bounded = torch.clamp(start, lower, upper)
    force = torch.zeros_like(bounded)
    for _ in range(rounds):
        free = (right + stiff * (bounded - force)) @ inverse
        bounded = torch.clamp(free + force, lower, upper)
        force = force + free - bounded
    return bounded
