"""Errors and matches that need no neighborhood: for images, tables and labels alike."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import pairs

PSNR_CEILING = 200.0
"""Decibels that a perfect example scores, so that it stays finite; the floor is its negative."""

MSE_CEILING = 10 ** (PSNR_CEILING / 10)
"""Mean squared error that a guess with a NaN or infinite entry scores; no guess scores more."""

COLUMN_TOLERANCE = 0.01
"""Fraction of a column's public range within which a value counts as read."""


def mse(truth: Tensor, guess: Tensor) -> Tensor:
    """Mean squared error in unit coordinates: (B, *shape) twice to (B,), from 0 to MSE_CEILING.

    The guess is not clamped: what lies outside the domain's range counts as it is. Raises DataError
    for shapes that differ and for a truth that is not finite.
    """
    truth, guess = pairs(truth, guess, "mse")
    squares = (guess - truth).square().reshape(len(truth), -1)
    # NaN would pass through a clamp.
    return squares.mean(1).nan_to_num(nan=MSE_CEILING).clamp(max=MSE_CEILING)


def psnr(truth: Tensor, guess: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10(mse), in dB at peak 1: (B, *shape) twice to (B,).

    Between -PSNR_CEILING (a guess that is not finite) and PSNR_CEILING (a perfect one). Raises
    DataError as `mse` does.
    """
    error = mse(truth, guess).clamp(min=1 / MSE_CEILING)
    return (-10 * torch.log10(error)).clamp(-PSNR_CEILING, PSNR_CEILING)


def columns_read(truth: Tensor, guess: Tensor, *, tolerance: float = COLUMN_TOLERANCE) -> Tensor:
    """Share of a table's columns read to within `tolerance` of their range: (B, D) twice to (B,).

    From 0 to 1. tolerance: a share of the column's public range, which is 1 in unit coordinates.
    Raises DataError as `mse` does, and unless both are (B, D).
    """
    truth, guess = pairs(truth, guess, "columns_read")
    if truth.ndim != 2:
        raise DataError(
            "metric 'columns_read'",
            expected="rows of a table, (B, D)",
            found=f"shape {tuple(truth.shape)}",
            remedy="use mse, psnr or ssim for other domains",
        )
    # A NaN compares false, so its column is not read.
    return ((guess - truth).abs() <= tolerance).double().mean(1)


def label_match(truth: Tensor, guess: Tensor) -> Tensor:
    """1 where a label was recovered and 0 where not: integers (B,) twice to (B,).

    Raises DataError unless both are (B,).
    """
    if truth.ndim != 1 or truth.shape != guess.shape:
        raise DataError(
            "metric 'label_match'",
            expected="one class index for each example on both sides, (B,)",
            found=f"{tuple(truth.shape)} and {tuple(guess.shape)}",
            remedy="take the argmax of soft labels first",
        )
    return (truth.detach().cpu() == guess.detach().cpu()).double()
