"""Linear maps, or views, after which the signals of different examples are more independent."""

from __future__ import annotations

import torch
from torch import Tensor

FAINT = 1e-12
"""A view whose mean square, relative to the strongest view's, is below this value holds only rounding."""


def centered(signals: Tensor) -> Tensor:
    """Return signals (n, F) minus their means."""
    return signals - signals.mean(1, keepdim=True)


def edges(images: Tensor, axes: Tensor) -> Tensor:
    """Return differences (n, N) of neighboring pixels of images (n, C, H, W): vertical, horizontal, and both.

    The views are scaled to equal mean squares. Colors vary less than brightness, but are just as
    independent from image to image.

    Args:
        images: (n, C, H, W).
        axes: (K, C), the color axes, each with its own views.
    """
    views: list[Tensor] = []
    for color in torch.einsum("kc,nchw->knhw", axes, images):
        down = color[:, 1:] - color[:, :-1]
        across = color[:, :, 1:] - color[:, :, :-1]
        both = down[:, :, 1:] - down[:, :, :-1]
        views += [view.flatten(1) for view in (down, across, both)]
    energy = torch.stack([view.square().mean() for view in views])
    scale = torch.where(energy > FAINT * energy.max(), energy.rsqrt(), 0.0)
    return torch.cat([s * view for s, view in zip(scale, views, strict=True)], dim=1)
