"""The space that the inputs of a linear layer span, from its gradient, and the distance of a guess from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.text.readers import Reader
from leakgauge.core import Observation

ROUNDING = 4.0
"""Multiple of the rounding error of one entry that a gradient in its own precision may have."""
NOISY = 0.9
"""Share of singular values above rounding that means noise of unknown size."""
CLEAR = 3.0
"""Least ratio between the smallest distance outside and the largest inside at which a cut is believed."""


@dataclass(frozen=True, eq=False)
class InputSpace:
    """The space of the inputs of one or more layers that read the same vectors.

    Args:
        readers: The layers.
        basis: Orthonormal rows (R, D), in float64.
        width: Number of values D of an input.
        values: Singular values of the gradient, descending, relative to the largest.
    """

    readers: tuple[Reader, ...]
    basis: Tensor
    width: int
    values: Tensor

    @property
    def rank(self) -> int:
        """Number of dimensions R."""
        return len(self.basis)

    @property
    def telling(self) -> bool:
        """Whether the space is smaller than the whole, so that a guess can lie outside."""
        return 0 < self.rank < self.width

    def distance(self, inputs: Tensor) -> Tensor:
        """Return the distance of inputs (..., D) from the space, relative to their norms, from 0 to 1."""
        norm = inputs.norm(dim=-1).clamp_min(1e-30)
        basis = self.basis.to(inputs)
        outside = inputs - (inputs @ basis.T) @ basis
        relative: Tensor = outside.norm(dim=-1) / norm
        return relative


def input_space(
    observation: Observation, readers: Sequence[Reader], *, fewest: int | None = None
) -> InputSpace:
    """Return the space of the inputs of readers that share a source.

    Rounding, and noise that is known, cut off the smallest singular values. If the inputs are known
    to be as many as the tokens, the widest gap behind the fewest decides, too.

    Args:
        observation: The observation.
        readers: Layers that read the same input.
        fewest: Fewest dimensions of their inputs. None if it is not known.
    """
    update = observation.update.tensors
    slopes = torch.cat([reader.slopes(update) for reader in readers])
    slopes = slopes[slopes.abs().amax(1) > 0]
    width = readers[0].width
    if not len(slopes):
        return InputSpace(tuple(readers), slopes.new_zeros(0, width), width, slopes.new_zeros(0))
    values, right = _right_factor(slopes)
    floor = _least(observation, slopes)
    most = observation.batch_size * observation.domain.shape[0]
    rank = int((values > floor).sum())
    # More dimensions than tokens are those of noise. With more tokens than values, nothing tells.
    if rank > NOISY * len(values) > most:
        rank = min(rank, _rank_in_noise(values, slopes.shape))
    rank = min(rank, most)
    if fewest is not None and rank > fewest:
        rank = _gap_rank(values.clamp_min(floor), fewest, rank)
    elif observation.training.kind == "delta":
        rank = _gap_rank(values, 1, rank)
    return InputSpace(tuple(readers), right[:rank], width, values / values[0])


def _right_factor(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return singular values and right singular vectors (rows), by a QR factorization first."""
    # The factor R of a tall matrix has its singular values, and is much smaller.
    small = torch.linalg.qr(slopes, mode="r")[1] if len(slopes) > slopes.shape[1] else slopes
    _, values, right = torch.linalg.svd(small, full_matrices=False)
    return values, right


def _least(observation: Observation, slopes: Tensor) -> float:
    """Return the singular value below which there is only rounding or known noise."""
    rows, columns = slopes.shape
    dtype = next(iter(observation.update.tensors.values())).dtype
    # Each entry is a sum of terms as large as the row, and is rounded by about that much.
    sizes = slopes.norm(dim=1) / math.sqrt(columns)
    rounding = ROUNDING * torch.finfo(dtype).eps * float(sizes.square().mean().sqrt())
    sigma = rounding
    noise = observation.noise if observation.training.kind == "gradient" else None
    if noise is not None:
        sigma = math.hypot(rounding, noise.std)
    # The norm of a random matrix of this size.
    return sigma * (math.sqrt(rows) + math.sqrt(columns))


def _rank_in_noise(values: Tensor, shape: torch.Size) -> int:
    """Return the number of singular values above those of noise of unknown size, such as that of a short format.

    The threshold is a multiple of the median, which is one of the noise if at most half of the
    values are signals.

    References:
        Gavish, Donoho. The Optimal Hard Threshold for Singular Values is 4 / sqrt(3). IEEE
        Transactions on Information Theory 60(8), 2014, equation 5. arXiv:1305.5870.
    """
    ratio = min(shape) / max(shape)
    multiple = 0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43
    return int((values > multiple * values.median()).sum())


def _gap_rank(values: Tensor, fewest: int, most: int) -> int:
    """Return the rank, from `fewest` to `most`, in front of the largest ratio of neighboring singular values."""
    logs = values.clamp_min(1e-300).log()
    logs = torch.cat([logs, logs[-1:]])
    drops = logs[fewest - 1 : most] - logs[fewest : most + 1]
    return fewest + int(drops.argmax())


def widest_gap(
    distances: Tensor, low: float, high: float, *, some: bool = False
) -> tuple[float, float]:
    """Return the middle of the widest interval without any distance, and the ratio of its ends.

    Args:
        distances: Distances of guesses, in any shape.
        low: Least end of the interval. Smaller distances are inside.
        high: Largest end. Larger distances are outside.
        some: Whether at least one distance is inside.
    """
    flat = distances.flatten().clamp(low, high)
    least = flat.min() if some else flat.new_tensor(low)
    ends = torch.cat([torch.stack([least, flat.new_tensor(high)]), flat]).sort().values.log()
    gaps = ends[1:] - ends[:-1]
    widest = int(gaps.argmax())
    middle = math.exp(float(ends[widest] + ends[widest + 1]) / 2)
    return middle, math.exp(float(gaps[widest]))
