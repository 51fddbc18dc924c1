"""The masks and the inputs of a convolution whose signal is one number for each channel, or 0.

The signal of output channel o at position p of example b is `level[o, b] mask[b, o, p]`. The mask is
1 where the ReLU behind the convolution passes the signal, else 0. The cause is a mean over positions
in front of the head. With patches v the gradient of the weight is

    rows[o] = sum over b, p of level[o, b] mask[b, o, p] v[b, p].

1. A start comes from the span of the inputs (`span_of`). It is exact if the gradient has as many
   independent rows as there are positions, and about 10 to 20% off if a few are missing.
2. Alternating least squares with bounds: the mask is between 0 and 1, the inputs are at least 0.
3. The masks are rounded, and the inputs follow from a linear system. The part of the gradient that
   stays unexplained is the certificate: at rounding level all bits are right.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.bounded_factors import BoundedProblem, Factors, patches_of
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

FIRST_ROUNDS, ROUNDS = 100, 20
"""Iterations of the first bounded least squares problem, and of each later one."""
SWEEPS, BETWEEN = 400, 5
"""Largest number of sweeps, and the number of sweeps from one rounding of the masks to the next."""
CERTAIN = 1e-5
"""A relative residual below this value certifies the masks of an update in float32.

Its rounding leaves about 4e-7, one wrong bit among thousands about 1e-3.
"""
BINARY = 0.1
"""Largest distance of a signal from 0 and from its level that counts as a mask's bit."""


@dataclass(frozen=True, eq=False)
class MaskedInputs:
    """The masks of a convolution's signal, and its inputs.

    Args:
        inputs: (B, C, N), the inputs of the convolution.
        masks: (B, O, P), whether the signal passes. False in channels that are not told.
        told: (O,), whether the mask of the channel is known.
        residual: Norm of the rows that masks and inputs leave unexplained, relative to their norm.
        certified: Whether the residual is below the tolerance.
        sweeps: Number of sweeps of alternating least squares.
    """

    inputs: Tensor
    masks: Tensor
    told: Tensor
    residual: float
    certified: bool
    sweeps: int


def recover_masks(
    rows: Tensor,
    levels: Tensor,
    counts: Tensor,
    start: Tensor,
    geometry: Geometry,
    *,
    tolerance: float = CERTAIN,
    sweeps: int = SWEEPS,
    beat: Beat = quiet,
) -> MaskedInputs | Inapplicable:
    """Return the masks and the inputs that explain the gradient of a convolution's weight.

    Args:
        rows: (O, C, K), the gradient. Its rows may have any scale, which the levels share.
        levels: (O, B), the signal of each channel and example where the ReLU passes it.
        counts: (O, B), the numbers of positions where it passes, from 0 to P, or -1 if unknown.
            Channels of unknown counts do not enter the search. At batch size 1 their masks follow
            from the inputs.
        start: (B, C, N), inputs near the right ones, each up to a factor of either sign.
        geometry: The places that the convolution reads.
        tolerance: Relative residual that certifies the result.
        sweeps: Largest number of sweeps.
        beat: Called in each sweep.

    Returns:
        The masks and inputs of the smallest residual, or the reason why the gradient has too few rows.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.binary_masks import recover_masks
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> generator = torch.Generator().manual_seed(0)
        >>> geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
        >>> inputs = torch.randn(1, 8, 16, generator=generator, dtype=torch.float64).relu()
        >>> mask = torch.rand(20, 16, generator=generator) < 0.5
        >>> patches = geometry.unfold(inputs)[0]
        >>> rows = torch.einsum("op,cpk->ock", mask.double(), patches)
        >>> near = inputs + 0.1 * torch.randn(1, 8, 16, generator=generator, dtype=torch.float64)
        >>> levels, counts = torch.ones(20, 1), mask.sum(1, keepdim=True)
        >>> found = recover_masks(rows, levels, counts, 3 * near, geometry)
        >>> found.certified, torch.equal(found.masks[0], mask)
        (True, True)
    """
    used = (counts > 0).any(1) & (counts >= 0).all(1) & rows.flatten(1).any(1)
    equations, unknowns = int(used.sum()) * geometry.taps, len(start) * geometry.places
    if equations < unknowns:
        return Inapplicable(
            f"{equations} equations ({int(used.sum())} channels with a signal, {geometry.taps} taps) "
            f"for {unknowns} unknowns ({len(start)} examples, {geometry.places} places)"
        )
    problem = _masked(rows[used], levels[used], counts[used], geometry)
    best, least, done = problem.search(problem.start(start.double()), tolerance, sweeps, beat)
    masks = torch.zeros((len(start), len(rows), geometry.positions), dtype=torch.bool).to(used)
    masks[:, used] = (best.signals != 0).movedim(0, 1)
    told = used | (counts == 0).all(1)
    if len(start) == 1 and least < tolerance:
        told, masks[0] = _complete(rows.double(), best.inputs, masks[0], told, geometry)
    return MaskedInputs(best.inputs, masks, told, least, least < tolerance, done)


@dataclass(frozen=True, eq=False)
class _Masked:
    """The problem with rows of norm 1, the signals (O, B, 1) where they pass, and the counts (O, B)."""

    problem: BoundedProblem
    full: Tensor
    counts: Tensor

    def start(self, start: Tensor) -> Factors:
        """Return factors from inputs up to a factor each. The counts tell it."""
        signs = start.sum((1, 2), keepdim=True).sign()
        inputs = (start * signs).clamp_min(0)
        patches = patches_of(inputs, self.problem.geometry)
        free = self.problem.rows.flatten(1) @ torch.linalg.pinv(patches, rtol=1e-6)
        sums = free.reshape(self.problem.lower.shape).sum(2)
        expected = self.full[:, :, 0] * self.counts
        factor = (sums * expected).sum(0) / (expected * expected).sum(0)
        inputs = inputs * factor.abs()[:, None, None]
        middle = (self.problem.lower + self.problem.upper) / 2
        return Factors(self.problem.signals(inputs, middle, FIRST_ROUNDS), inputs)

    def search(
        self, factors: Factors, tolerance: float, sweeps: int, beat: Beat
    ) -> tuple[Factors, float, int]:
        """Return the best factors with rounded masks, their residual, and the number of sweeps."""
        best, least, done = factors, torch.inf, 0
        for done in range(1, sweeps + 1):
            beat()
            factors = self.problem.sweep(factors, ROUNDS)
            if done % BETWEEN == 1:
                rounded, residual = self.rounded(factors)
                if residual < least:
                    best, least = rounded, residual
                if least < tolerance:
                    break
        return best, least, done

    def rounded(self, factors: Factors) -> tuple[Factors, float]:
        """Return factors with masks rounded by the counts or by half the level, and the residual."""
        part = factors.signals / torch.where(self.full == 0, 1.0, self.full)
        ranks = part.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        found = []
        for mask in (ranks < self.counts[:, :, None], part > 0.5):
            signals = torch.where(mask, self.full, 0.0)
            rounded = Factors(signals, self.problem.free_inputs(signals))
            found.append((rounded, self.problem.residual(rounded)))
        return min(found, key=lambda pair: pair[1])


def _masked(rows: Tensor, levels: Tensor, counts: Tensor, geometry: Geometry) -> _Masked:
    """Return the problem. A channel that is active everywhere, or nowhere, has equal bounds."""
    sizes = rows.double().flatten(1).norm(dim=1)
    full = (levels.double() / sizes[:, None])[:, :, None]
    one = torch.where((counts == 0)[:, :, None], 0.0, full)
    other = torch.where((counts == geometry.positions)[:, :, None], full, 0.0)
    lower, upper = (
        bound.expand(-1, -1, geometry.positions)
        for bound in (torch.minimum(one, other), torch.maximum(one, other))
    )
    unit = rows.double() / sizes[:, None, None]
    return _Masked(BoundedProblem(unit, lower, upper, geometry), full, counts)


def _complete(
    rows: Tensor, inputs: Tensor, masks: Tensor, told: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Return which masks are told, and the masks (O, P), with those of unknown counts from the inputs.

    The inputs tell the signal at every position. It counts if it takes only one value beside 0.
    """
    patches = patches_of(inputs, geometry)
    signals = rows.flatten(1) @ torch.linalg.pinv(patches, rtol=1e-6)
    largest = signals.gather(1, signals.abs().argmax(1, keepdim=True))
    part = signals / torch.where(largest == 0, 1.0, largest)
    found = part > 0.5
    level = (part * found).sum(1, keepdim=True) / found.sum(1, keepdim=True).clamp_min(1)
    binary = ((part - level * found).abs().amax(1) < BINARY) & (largest[:, 0] != 0) & ~told
    return told | binary, torch.where(binary[:, None], found, masks)
