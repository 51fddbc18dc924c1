"""Structural similarity of images."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from leakgauge.metrics.pairs import are_finite, as_images

_WINDOW = 7


def ssim(truth: Tensor, guess: Tensor) -> Tensor:
    r"""Compute the mean structural similarity of each image (SSIM).

    .. math::

        \mathrm{SSIM}(x, \hat x) = \frac{(2 \mu_x \mu_{\hat x} + c_1)(2 \sigma_{x \hat x} + c_2)}
        {(\mu_x^2 + \mu_{\hat x}^2 + c_1)(\sigma_x^2 + \sigma_{\hat x}^2 + c_2)}

    Here :math:`x` is a window of the original and :math:`\hat x` the same window of the
    reconstruction. The means are :math:`\mu`, and the variances and the covariance are
    :math:`\sigma`. The constants are :math:`c_1 = 0.01^2` and :math:`c_2 = 0.03^2`. The value is
    the mean over windows and channels, from -1 to 1. Higher values mean that more has leaked.

    scikit-image computes it, with a uniform window of 7 x 7 pixels. A smaller image gets the
    largest odd window that fits. An image below 3 pixels a side is one window.

    Args:
        truth: Originals `(B, C, H, W)` in [0, 1]. They must be finite.
        guess: Reconstructions of the same shape. They are clamped to [0, 1] first.

    Returns:
        The values (B,). A reconstruction that is not finite gets -1.

    Raises:
        DataError: The shapes differ, are not (B, C, H, W), or an original is not finite.

    References:
        Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to
        Structural Similarity. IEEE Transactions on Image Processing, 2004.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(2).inputs
        >>> lg.metrics.ssim(images, images)
        tensor([1., 1.], dtype=torch.float64)
    """
    truth, guess = as_images(truth, guess, "ssim")
    values = torch.full((len(truth),), -1.0, dtype=torch.float64)
    for i in are_finite(guess).nonzero().flatten().tolist():
        values[i] = _one(truth[i], guess[i].clamp(0, 1))
    return values


def _one(truth: Tensor, guess: Tensor) -> float:
    """Return the value of one image (C, H, W)."""
    side = min(truth.shape[1:])
    if side < 3:
        return _whole(truth, guess)
    # The import is here because it takes half a second. It is by name because the package has no types.
    structural_similarity = importlib.import_module("skimage.metrics").structural_similarity
    window = min(_WINDOW, side - (side + 1) % 2)
    return float(
        structural_similarity(
            truth.numpy(), guess.numpy(), win_size=window, channel_axis=0, data_range=1.0
        )
    )


def _whole(truth: Tensor, guess: Tensor) -> float:
    """Return the value with one window, the whole image, for each channel."""
    c1, c2 = 0.01**2, 0.03**2
    x, y = truth.flatten(1), guess.flatten(1)
    mx, my = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    # Covariances are those of samples, as for larger windows. A single pixel has none.
    degrees = max(x.shape[1] - 1, 1)
    vx, vy = (x - mx).square().sum(1) / degrees, (y - my).square().sum(1) / degrees
    covariance = ((x - mx) * (y - my)).sum(1) / degrees
    mx, my = mx[:, 0], my[:, 0]
    luminance = (2 * mx * my + c1) / (mx.square() + my.square() + c1)
    return float((luminance * (2 * covariance + c2) / (vx + vy + c2)).mean())
