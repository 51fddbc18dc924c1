"""Structural similarity at five scales."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.core import DataError
from leakgauge.metrics.pairs import are_finite, as_images

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents that Wang et al. found by experiment, from the finest scale to the coarsest."""

MS_SSIM_SIDE = 161
"""Least pixels a side. Halved four times and rounded up, it still holds one window of 11 pixels."""

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ms_ssim(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Compute the multi-scale structural similarity of each image (MS-SSIM).

    .. math::

        l_5(x, \hat x)^{w_5} \prod_{j=1}^{5} cs_j(x, \hat x)^{w_j}

    Here :math:`x` is an original and :math:`\hat x` its reconstruction. The term :math:`cs_j` is
    contrast and structure at scale :math:`j`, and :math:`l_5` is luminance at the coarsest scale.
    Terms are averaged over a Gaussian window of 11 pixels with deviation 1.5, where it fits. At the
    coarsest scale, luminance and structure are multiplied before the average. A negative average
    counts as 0, because its fractional power is undefined. The result is averaged over channels.

    The value is from 0 to 1. Higher values mean that more has leaked.

    Args:
        truth: Originals `(B, C, H, W)` in [0, 1]. They must be finite.
        guess: Reconstructions of the same shape. They are clamped to [0, 1] first.

    Returns:
        The values (B,). A reconstruction that is not finite gets 0.

    Raises:
        DataError: A side is below 161 pixels, the shapes differ, are not (B, C, H, W), or an
            original is not finite.

    References:
        Wang, Simoncelli, Bovik. Multi-Scale Structural Similarity for Image Quality Assessment.
        Asilomar 2003, equation 7.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> images = torch.rand(1, 1, 161, 161, generator=torch.Generator().manual_seed(0))
        >>> lg.metrics.ms_ssim(images, images).round(decimals=4)
        tensor([1.], dtype=torch.float64)
    """
    truth, guess = as_images(truth, guess, "ms_ssim")
    if min(truth.shape[2:]) < MS_SSIM_SIDE:
        raise DataError(
            "metric 'ms_ssim'",
            expected=f"images of at least {MS_SSIM_SIDE} pixels a side, for five scales",
            found=f"{truth.shape[2]} x {truth.shape[3]}",
            remedy="use ssim",
        )
    values = torch.zeros(len(truth), dtype=torch.float64)
    for i in are_finite(guess).nonzero().flatten().tolist():
        values[i] = _one(truth[i], guess[i].clamp(0, 1))
    return values


def _one(truth: Tensor, guess: Tensor) -> Tensor:
    """Return the value of one image (C, H, W)."""
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
    """Return luminance, and contrast times structure, at each place of the window: (C, 1, H - 10, W - 10)."""
    mx, my = _windowed(x), _windowed(y)
    vx, vy = _windowed(x * x) - mx * mx, _windowed(y * y) - my * my
    covariance = _windowed(x * y) - mx * my
    luminance = (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    return luminance, (2 * covariance + _C2) / (vx + vy + _C2)


def _windowed(x: Tensor) -> Tensor:
    """Return Gaussian means at the places where the window fits."""
    places = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    window = torch.exp(-places.square() / (2 * _SIGMA**2))
    window = window / window.sum()
    return functional.conv2d(
        functional.conv2d(x, window[None, None, :, None]), window[None, None, None]
    )


def _halved(x: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels. An odd last row or column is repeated, as in the authors' code."""
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return functional.avg_pool2d(functional.pad(x, odd, mode="replicate"), 2)
