"""Structural similarity at five scales (Wang, Simoncelli and Bovik 2003)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.core import DataError
from leakgauge.metrics.pairs import images, usable

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents that Wang et al. found by experiment, from the finest scale to the coarsest."""

MS_SSIM_SIDE = 161
"""Least pixels a side: halved four times, rounded up, it still holds one window of 11 pixels."""

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ms_ssim(truth: Tensor, guess: Tensor) -> Tensor:
    """Multi-scale structural similarity: images (B, C, H, W) in [0, 1] twice to (B,), from 0 to 1.

    Equation 7 of the paper: the product over five scales of the mean contrast and structure, and at
    the coarsest of luminance too, each to its exponent; a Gaussian window of 11 pixels, std 1.5,
    where it fits; the mean over channels. A mean that is negative counts as 0, since a fractional
    power of it is none. The guess is clamped to [0, 1] first; one that is not finite scores 0.
    Raises DataError for images with fewer than MS_SSIM_SIDE pixels a side, and as `ssim` does.
    """
    truth, guess = images(truth, guess, "ms_ssim")
    if min(truth.shape[2:]) < MS_SSIM_SIDE:
        raise DataError(
            "metric 'ms_ssim'",
            expected=f"images of at least {MS_SSIM_SIDE} pixels a side, for five scales",
            found=f"{truth.shape[2]} x {truth.shape[3]}",
            remedy="use ssim",
        )
    values = torch.zeros(len(truth), dtype=torch.float64)
    for i in usable(guess).nonzero().flatten().tolist():
        values[i] = _one(truth[i], guess[i].clamp(0, 1))
    return values


def _one(truth: Tensor, guess: Tensor) -> Tensor:
    """Of one image (C, H, W)."""
    x, y = truth[:, None], guess[:, None]
    product = torch.ones(len(x), dtype=x.dtype)
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = _terms(x, y)
        coarsest = scale == len(WEIGHTS) - 1
        means = (luminance * structure if coarsest else structure).flatten(1).mean(1)
        product = product * means.clamp(min=0) ** weight
        x, y = _halved(x), _halved(y)
    return product.mean()


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at each place of a window: (C, 1, H - 10, W - 10)."""
    mx, my = _windowed(x), _windowed(y)
    vx, vy = _windowed(x * x) - mx * mx, _windowed(y * y) - my * my
    covariance = _windowed(x * y) - mx * my
    luminance = (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    return luminance, (2 * covariance + _C2) / (vx + vy + _C2)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian means, where the window fits."""
    places = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    window = torch.exp(-places.square() / (2 * _SIGMA**2))
    window = window / window.sum()
    return functional.conv2d(
        functional.conv2d(x, window[None, None, :, None]), window[None, None, None]
    )


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; an odd last row or column is repeated, as in the authors' code."""
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return functional.avg_pool2d(functional.pad(x, odd, mode="replicate"), 2)
