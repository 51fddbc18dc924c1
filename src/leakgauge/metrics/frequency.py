"""The distance of two images by their spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.metrics.examples import MSE_CEILING
from leakgauge.metrics.pairs import as_images


def fft2d(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Compute the mean squared difference of the magnitudes of 2D spectra (FFT2D).

    .. math::

        \frac{1}{C H W} \sum_{c, u, v} \big( |(F x)_{cuv}| - |(F \hat x)_{cuv}| \big)^2

    Here :math:`x` is an original, :math:`\hat x` its reconstruction, and :math:`F` the orthonormal
    2D Fourier transform of each channel. The value is from 0 to `MSE_CEILING`, and at most the mean
    squared error. Lower values mean that more has leaked. Magnitudes do not depend on position. So
    a copy that is shifted, and wraps around at the edges, gets 0.

    Args:
        truth: Originals `(B, C, H, W)` in unit coordinates. They must be finite.
        guess: Reconstructions of the same shape.

    Returns:
        The values (B,). A reconstruction that is not finite gets the ceiling.

    Raises:
        DataError: The shapes differ, are not (B, C, H, W), or an original is not finite.

    References:
        Ours in detail. Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image
        Batch Recovery via GradInversion. CVPR 2021. arXiv:2104.07586. They report a number of this
        name. We found no formula, so compare values of LeakGauge only with each other.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(1).inputs
        >>> bool(lg.metrics.fft2d(images, images.roll(2, -1)) < 1e-9)
        True
    """
    truth, guess = as_images(truth, guess, "fft2d")
    # An infinite entry makes the spectrum NaN, which then becomes the ceiling.
    apart = torch.fft.fft2(truth, norm="ortho").abs() - torch.fft.fft2(guess, norm="ortho").abs()
    means: Tensor = apart.square().flatten(1).mean(1)
    return means.nan_to_num(nan=MSE_CEILING).clamp(max=MSE_CEILING)
