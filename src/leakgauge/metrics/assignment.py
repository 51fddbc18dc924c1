"""Assignment of reconstructions to originals, because an attack returns a batch in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import as_finite

_COST_CEILING = 1e6
"""Largest cost. It is far above errors in range, but small enough for exact float64 sums with small costs."""


def assign(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Return the assignment of reconstructions to originals with the least total squared error.

    .. math::

        \min_\pi \sum_{i=1}^{B} \frac{1}{n} \|\hat x_{\pi(i)} - x_i\|_2^2

    Here :math:`x_i` are B originals of :math:`n` values, :math:`\hat x_j` are M reconstructions,
    and :math:`\pi` gives each original its own reconstruction. Reconstructions with NaN or infinite
    entries are chosen last.

    Args:
        truth: Originals `(B, *shape)` in unit coordinates. They must be finite.
        guess: Reconstructions `(M, *shape)` with M >= B.

    Returns:
        Indices (B,) of type int64. Entry i is the reconstruction for original i, so
        `guess[assign(truth, guess)]` is in the originals' order.

    Raises:
        DataError: The shapes do not match, there are fewer reconstructions than originals, or an
            original is not finite.

    References:
        SciPy's solver: Crouse. On Implementing 2D Rectangular Assignment Algorithms. IEEE
        Transactions on Aerospace and Electronic Systems, 2016.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(3).inputs
        >>> lg.metrics.assign(images, images.flip(0))
        tensor([2, 1, 0])
    """
    aligned = truth.ndim > 0 and guess.ndim > 0 and truth.shape[1:] == guess.shape[1:]
    if not aligned or truth.numel() == 0 or len(guess) < len(truth):
        raise DataError(
            "assignment",
            expected="at least one original, and at least as many reconstructions of the same shape",
            found=f"originals {tuple(truth.shape)} and reconstructions {tuple(guess.shape)}",
            remedy="give at least as many reconstructions as originals",
        )
    # The import is here because SciPy takes a third of a second to load.
    from scipy.optimize import linear_sum_assignment

    originals = as_finite(truth, "assignment").reshape(len(truth), -1)
    candidates = guess.detach().to("cpu", torch.float64).reshape(len(guess), -1)
    # Costs are computed row by row. The form |a|^2 - 2ab + |b|^2 cancels if reconstructions are nearly exact.
    costs = torch.stack([(candidates - row).square().mean(1) for row in originals])
    costs = costs.nan_to_num(nan=_COST_CEILING).clamp(max=_COST_CEILING)
    _, chosen = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(chosen).long()
