"""Structural similarity of images (Wang et al. 2004)."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from leakgauge.metrics.pairs import images, usable

_WINDOW = 7


def ssim(truth: Tensor, guess: Tensor) -> Tensor:
    """Mean structural similarity: images (B, C, H, W) in [0, 1] twice to (B,), from -1 to 1.

    scikit-image's, averaged over channels, with a uniform 7x7 window; smaller images get the
    largest odd window that fits, and those under 3 pixels a side are one window as a whole. The
    guess is clamped to [0, 1] first; one that is not finite scores -1. Raises DataError for shapes
    that differ or are not (B, C, H, W), and for a truth that is not finite.
    """
    truth, guess = images(truth, guess, "ssim")
    values = torch.full((len(truth),), -1.0, dtype=torch.float64)
    for i in usable(guess).nonzero().flatten().tolist():
        values[i] = _one(truth[i], guess[i].clamp(0, 1))
    return values


def _one(truth: Tensor, guess: Tensor) -> float:
    side = min(truth.shape[1:])
    if side < 3:
        return _whole(truth, guess)
    # Imported here, as it takes half a second; by name, as it carries no types.
    structural_similarity = importlib.import_module("skimage.metrics").structural_similarity
    window = min(_WINDOW, side - (side + 1) % 2)
    return float(
        structural_similarity(
            truth.numpy(), guess.numpy(), win_size=window, channel_axis=0, data_range=1.0
        )
    )


def _whole(truth: Tensor, guess: Tensor) -> float:
    """Wang et al.'s formula with one window, the image, for each channel."""
    c1, c2 = 0.01**2, 0.03**2
    x, y = truth.flatten(1), guess.flatten(1)
    mx, my = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    # Sample covariance, as for the larger windows; a single pixel has none.
    degrees = max(x.shape[1] - 1, 1)
    vx, vy = (x - mx).square().sum(1) / degrees, (y - my).square().sum(1) / degrees
    covariance = ((x - mx) * (y - my)).sum(1) / degrees
    mx, my = mx[:, 0], my[:, 0]
    luminance = (2 * mx * my + c1) / (mx.square() + my.square() + c1)
    return float((luminance * (2 * covariance + c2) / (vx + vy + c2)).mean())
