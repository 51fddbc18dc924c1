"""The span of a convolution's inputs, from the gradient of its weight alone.

The gradient of the weight is `dW = Delta V`. Row p of V is the patch that output position p reads,
and column p of Delta is the signal dL/dz there. If dW has as many independent rows as there are
positions, every patch lies in the row space of dW. Patches overlap, so few inputs u have all their
patches in this space. They are the null vectors of a linear operator, which neither the labels, the
loss nor any layer above enters.

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

SWEEPS, DEGREE = 12, 14
"""Largest number of sweeps of the eigensolver, and the degree of its filter in each."""
MOST_SWEEPS, HOPEFUL = 60, 1e-4
"""Largest number of sweeps if a defect is that small. Where the gap is narrow, vectors converge slowly."""
SETTLED = 1e-9
"""Residual of an eigenvector, relative to the largest eigenvalue 1, at which it counts as found."""
EXTRA = 4
"""Number of eigenvectors that are computed beyond the wanted ones, to see the gap behind them."""


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The row space of a weight's gradient.

    Args:
        basis: Orthonormal rows (r, C K).
        rank: Number of rows r.
        floor: Smallest kept singular value, relative to the largest. The relative error of the
            update, divided by this number, is about the error of the space.
    """

    basis: Tensor
    rank: int
    floor: float


@dataclass(frozen=True, eq=False)
class Span:
    """The inputs of a convolution, up to their linear combinations.

    Args:
        basis: Orthonormal rows (n, C, N) that span the inputs of n examples.
        defects: (n + extra,), distances from consistency, ascending, from 0 to 1. An input whose
            patches all lie in the row space has 0.
        rank: Rank of the gradient.
    """

    basis: Tensor
    defects: Tensor
    rank: int

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self.basis)

    @property
    def gap(self) -> float:
        """Ratio of the first defect behind the span to the last one inside it. Infinite if nothing is behind."""
        if len(self.defects) <= self.count:
            return math.inf
        inside, behind = float(self.defects[self.count - 1]), float(self.defects[self.count])
        return behind / max(inside, torch.finfo(torch.float64).eps)


def row_space(dweight: Tensor, *, error: float, sigma: float = 0.0) -> RowSpace:
    """Return the row space of a weight's gradient `(O, C, *kernel)`.

    Args:
        dweight: The gradient.
        error: Relative error of its entries, such as 6e-8 for an update in float32.
        sigma: Standard deviation of further errors, such as noise, that are equally large in all entries.
    """
    flat = dweight.flatten(1)
    flat = flat[flat.abs().amax(1) > 0]
    if not len(flat):
        return RowSpace(flat, 0, 0.0)
    # Rows are divided by the size of their errors. Those of rounding are relative to the row's norm.
    norms = flat.norm(dim=1, keepdim=True)
    sizes = (norms.square() + flat.shape[1] * (sigma / error) ** 2).sqrt()
    flat = flat / sizes
    # The factorization by QR is several times faster than that of the wide matrix.
    q, r = torch.linalg.qr(flat.T)
    left, values, _ = torch.linalg.svd(r, full_matrices=False)
    least = error * math.sqrt(flat.shape[1]) * float((norms / sizes).max())
    rank = int((values > least).sum())
    floor = float(values[rank - 1] / values[0]) if rank else 0.0
    return RowSpace((q @ left[:, :rank]).T.contiguous(), rank, floor)


@dataclass(frozen=True, eq=False)
class Consistency:
    r"""The operator whose eigenvectors of eigenvalue 1 are the inputs with all patches in a space.

    It maps u to :math:`D^{-1/2} F \Pi F^\top D^{-1/2} u`. Here :math:`F^\top` unfolds an input into
    patches, :math:`\Pi` projects each patch, and D counts the taps that read each place. Its
    eigenvalues are between 0 and 1.

    Args:
        space: The row space.
        geometry: The places that the convolution reads.
        channels: Number of input channels C.
        centered: Whether each patch has the mean over all positions subtracted. Behind a layer
            whose signal sums to 0 over the positions, such as BatchNorm in train mode, only
            differences of patches lie in the row space.
    """

    space: RowSpace
    geometry: Geometry
    channels: int
    centered: bool = False

    @cached_property
    def scale(self) -> Tensor:
        """Factors (N,), the inverse roots of the numbers of taps. 0 for a place that no tap reads."""
        reads = self.geometry.reads.to(self.space.basis)
        return torch.where(reads > 0, reads.clamp_min(1).rsqrt(), 0.0)

    def __call__(self, u: Tensor) -> Tensor:
        """Return the image (n, C, N) of inputs u (n, C, N)."""
        scale, basis = self.scale, self.space.basis
        patches = self.geometry.unfold(u * scale)
        rows = patches.movedim(-3, -2).flatten(-2)  # (n, P, C K)
        mean = rows.mean(-2, keepdim=True) if self.centered else None
        if mean is not None:
            rows = rows - mean
        rows = (rows @ basis.T) @ basis
        if mean is not None:
            rows = rows - rows.mean(-2, keepdim=True) + mean
        back = rows.reshape(*rows.shape[:-1], self.channels, -1).movedim(-2, -3)
        return self.geometry.fold(back) * scale


def span_of(
    operator: Consistency,
    count: int,
    *,
    generator: torch.Generator,
    extra: int = EXTRA,
    beat: Beat = quiet,
) -> Span:
    """Return the span of `count` inputs of a convolution.

    A block of vectors is filtered by Chebyshev polynomials that amplify the eigenvalues near 1.

    Args:
        operator: The operator of the layer.
        count: Number of examples.
        generator: Source of the start.
        extra: Number of further eigenvectors, which show the gap.
        beat: Called in each sweep.
    """
    shape = (operator.channels, operator.geometry.places)
    most = min(count + extra, math.prod(shape))
    like = operator.space.basis
    block = torch.randn((most, *shape), generator=generator, dtype=torch.float64).to(like)
    upper = 0.5
    for sweep in range(MOST_SWEEPS):
        beat()
        values, block, error = _rayleigh_ritz(operator, block)
        hopeful = sweep < SWEEPS or 1 - float(values[count - 1]) < HOPEFUL
        if float(error[:count].max()) < SETTLED or not hopeful:
            break
        upper = min(max(float(values[-1]), 0.05), 1 - 1e-9)
        block = _filter(operator, block, upper)
    values, block, _ = _rayleigh_ritz(operator, block)
    # The operator's vectors are the inputs times the roots of the numbers of taps.
    inputs = (block[:count] * operator.scale).flatten(1)
    basis = torch.linalg.qr(inputs.T)[0].T
    return Span(basis.unflatten(1, shape), (1 - values).clamp_min(0), operator.space.rank)


def _rayleigh_ritz(operator: Consistency, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues (n,), descending, their vectors (n, C, N), and their residuals (n,)."""
    shape = block.shape
    flat = torch.linalg.qr(block.flatten(1).T)[0].T
    image = operator(flat.reshape(shape)).flatten(1)
    small = flat @ image.T
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    values, turn = values.flip(0), vectors.flip(1).T
    vectors, image = turn @ flat, turn @ image
    error = (image - values[:, None] * vectors).norm(dim=1)
    return values, vectors.reshape(shape), error


def _filter(operator: Consistency, block: Tensor, upper: float) -> Tensor:
    """Return the block with its parts of eigenvalues above `upper` amplified."""
    before, now = block, (2 / upper) * operator(block) - block
    for _ in range(DEGREE - 1):
        before, now = now, (4 / upper) * operator(now) - 2 * now - before
    return now
