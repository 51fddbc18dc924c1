"""Errors and matches for images, tables and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import as_pairs

PSNR_CEILING = 200.0
"""Largest PSNR in decibels, that of an exact copy. The smallest PSNR is its negative."""

MSE_CEILING = 10 ** (PSNR_CEILING / 10)
"""Largest mean squared error, and the value of a reconstruction that is not finite."""

COLUMN_TOLERANCE = 0.01
"""Largest error of a column that counts as read, as a fraction of its public range."""


def mse(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Compute the mean squared error of each example.

    .. math::

        \mathrm{MSE}(x, \hat x) = \frac{1}{n} \sum_{i=1}^{n} (\hat x_i - x_i)^2

    Here :math:`x` is an original and :math:`\hat x` its reconstruction, with :math:`n` values each.
    The value is from 0 to `MSE_CEILING`, 1e20. Lower values mean that more has leaked.
    Reconstructions are not clamped.

    Args:
        truth: Originals `(B, *shape)` in unit coordinates. They must be finite.
        guess: Reconstructions of the same shape.

    Returns:
        The values (B,). A reconstruction that is not finite gets the ceiling.

    Raises:
        DataError: The shapes differ, or an original is not finite.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(2).inputs
        >>> lg.metrics.mse(images, images + 0.1).round(decimals=4)
        tensor([0.0100, 0.0100], dtype=torch.float64)
    """
    truth, guess = as_pairs(truth, guess, "mse")
    squares = (guess - truth).square().reshape(len(truth), -1)
    # A clamp would let NaN pass, so it is replaced first.
    return squares.mean(1).nan_to_num(nan=MSE_CEILING).clamp(max=MSE_CEILING)


def psnr(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Compute the peak signal-to-noise ratio of each example, in decibels.

    .. math::

        \mathrm{PSNR}(x, \hat x) = -10 \log_{10} \mathrm{MSE}(x, \hat x)

    Here :math:`x` is an original and :math:`\hat x` its reconstruction, in units where the peak is
    1. The value is from -`PSNR_CEILING` to `PSNR_CEILING`, 200 dB. Higher values mean that more has
    leaked. An exact copy gets 200 dB.

    Args:
        truth: Originals `(B, *shape)` in unit coordinates. They must be finite.
        guess: Reconstructions of the same shape.

    Returns:
        The values (B,) in dB. A reconstruction that is not finite gets -200 dB.

    Raises:
        DataError: The shapes differ, or an original is not finite.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(2).inputs
        >>> lg.metrics.psnr(images, images + 0.1).round(decimals=2)
        tensor([20., 20.], dtype=torch.float64)
    """
    error = mse(truth, guess).clamp(min=1 / MSE_CEILING)
    return (-10 * torch.log10(error)).clamp(-PSNR_CEILING, PSNR_CEILING)


def columns_read(truth: Tensor, guess: Tensor, *, tolerance: float = COLUMN_TOLERANCE) -> Tensor:
    """Compute the fraction of a table's columns that were recovered, for each row.

    A column is recovered, or read, if its error is at most `tolerance`. The value is from 0 to 1. Higher values
    mean that more has leaked.

    Args:
        truth: Originals `(B, D)` in unit coordinates. They must be finite.
        guess: Reconstructions of the same shape.
        tolerance: Largest error of a column that counts as read, a fraction of the column's public
            range. The default is 1%.

    Returns:
        The values (B,). An entry that is not finite is not read.

    Raises:
        DataError: The shapes differ, are not (B, D), or an original is not finite.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> rows = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
        >>> lg.metrics.columns_read(rows, rows + torch.tensor([0.0, 0.005, 0.1, 0.2]))
        tensor([0.5000], dtype=torch.float64)
    """
    truth, guess = as_pairs(truth, guess, "columns_read")
    if truth.ndim != 2:
        raise DataError(
            "metric 'columns_read'",
            expected="rows of a table (B, D)",
            found=f"shape {tuple(truth.shape)}",
            remedy="use mse, psnr or ssim for other domains",
        )
    # Comparison with NaN is false, so that column is not read.
    return ((guess - truth).abs() <= tolerance).double().mean(1)


def label_match(truth: Tensor, guess: Tensor) -> Tensor:
    """Compute whether each label was recovered: 1 if it was, else 0.

    Higher values mean that more has leaked.

    Args:
        truth: Class indices (B,).
        guess: Recovered class indices (B,).

    Returns:
        The values (B,).

    Raises:
        DataError: The shapes differ or are not (B,).

    Example:
        >>> import leakgauge as lg
        >>> labels = lg.examples.batch(3).targets
        >>> lg.metrics.label_match(labels, labels.flip(0))
        tensor([0., 1., 0.], dtype=torch.float64)
    """
    if truth.ndim != 1 or truth.shape != guess.shape:
        raise DataError(
            "metric 'label_match'",
            expected="one class index (B,) for each original and each reconstruction",
            found=f"{tuple(truth.shape)} and {tuple(guess.shape)}",
            remedy="take the argmax of soft labels first",
        )
    return (truth.detach().cpu() == guess.detach().cpu()).double()
