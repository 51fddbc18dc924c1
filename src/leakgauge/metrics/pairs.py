"""Checks of originals and reconstructions that all metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError


def as_pairs(truth: Tensor, guess: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Return originals and reconstructions as float64 on the CPU.

    Raises:
        DataError: The shapes differ, there is no example, or an original is not finite.
    """
    if truth.shape != guess.shape or truth.numel() == 0 or truth.ndim == 0:
        raise DataError(
            f"metric {metric!r}",
            expected=f"at least one example, and reconstructions of the originals' shape {tuple(truth.shape)}",
            found=f"{tuple(guess.shape)}",
            remedy="give one reconstruction for each original",
        )
    return as_finite(truth, metric), guess.detach().to("cpu", torch.float64)


def as_images(truth: Tensor, guess: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Return images and their reconstructions as float64 on the CPU.

    Raises:
        DataError: The shapes differ or are not (B, C, H, W), or an original is not finite.
    """
    truth, guess = as_pairs(truth, guess, metric)
    if truth.ndim != 4:
        raise DataError(
            f"metric {metric!r}",
            expected="images (B, C, H, W)",
            found=f"shape {tuple(truth.shape)}",
            remedy="use mse or psnr for other domains",
        )
    return truth, guess


def as_finite(truth: Tensor, metric: str) -> Tensor:
    """Return the originals as float64 on the CPU.

    Raises:
        DataError: An original is not finite.
    """
    truth = truth.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(truth).all()):
        raise DataError(
            f"metric {metric!r}",
            expected="finite originals",
            found=f"{int((~torch.isfinite(truth)).sum())} NaN or infinite values",
            remedy="check the data set",
        )
    return truth


def are_finite(guess: Tensor) -> Tensor:
    """Return which reconstructions `(B, *shape)` are finite in all entries: bool (B,)."""
    return torch.isfinite(guess).reshape(len(guess), -1).all(1)
