"""Checks that every metric makes of its two sides."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError


def pairs(truth: Tensor, guess: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Both as float64 on the CPU; DataError unless they match in shape and the truth is finite."""
    if truth.shape != guess.shape or truth.numel() == 0 or truth.ndim == 0:
        raise DataError(
            f"metric {metric!r}",
            expected=f"at least one example, and a guess of the truth's shape {tuple(truth.shape)}",
            found=f"{tuple(guess.shape)}",
            remedy="give one reconstruction for each original",
        )
    return finite(truth, metric), guess.detach().to("cpu", torch.float64)


def images(truth: Tensor, guess: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """As `pairs`; DataError unless both are images, (B, C, H, W)."""
    truth, guess = pairs(truth, guess, metric)
    if truth.ndim != 4:
        raise DataError(
            f"metric {metric!r}",
            expected="images, (B, C, H, W)",
            found=f"shape {tuple(truth.shape)}",
            remedy="use mse or psnr for other domains",
        )
    return truth, guess


def finite(truth: Tensor, metric: str) -> Tensor:
    """The truth as float64 on the CPU; DataError unless it is finite."""
    truth = truth.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(truth).all()):
        raise DataError(
            f"metric {metric!r}",
            expected="finite originals",
            found=f"{int((~torch.isfinite(truth)).sum())} NaN or infinite values",
            remedy="check the data set",
        )
    return truth


def usable(guess: Tensor) -> Tensor:
    """Which examples of a guess (B, *shape) are finite throughout: (B,) bool."""
    return torch.isfinite(guess).reshape(len(guess), -1).all(1)
