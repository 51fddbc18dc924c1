"""Linear views of signals in which those of different examples are more independent than as they are."""

from __future__ import annotations

import torch
from torch import Tensor

FAINT = 1e-12
"""Mean square of a view, against the loudest, below which it holds nothing but rounding."""


def centered(signals: Tensor) -> Tensor:
    """Signals (n, F) less their means."""
    return signals - signals.mean(1, keepdim=True)


def edges(images: Tensor, axes: Tensor) -> Tensor:
    """Differences of neighbors, vertical, horizontal and of both, of images (n, C, H, W): (n, N).

    axes (K, C): the colors that are told apart. Each of the 3 K views has the same mean square: colors
    vary less than brightness, but are as independent from image to image.
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
