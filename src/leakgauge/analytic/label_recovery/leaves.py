"""Dummy images of another kind than noise: leaves of one color each, that hide one another.

The dead leaves model (Lee, Mumford and Huang 2001, "Occlusion models for natural images"): shapes whose sizes
follow a power law have the edges, flat parts and spectrum of photographs. Each image draws its own number of
leaves, smallest leaf, saturation and grain, so that among many some are like any image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FINEST = 64
"""Pixels of the longer side at which leaves are painted; larger images are enlarged from it."""
MOST = 120
"""Leaves of an image."""
SMALLEST, LARGEST = (0.02, 0.12), 0.6
"""Size of the smallest leaf, from and to, and of the largest; of the image's side."""
STRETCH = 0.7
"""Logarithm of the most that a leaf is longer, and narrower, than a disk."""


def leaves(size: tuple[int, int], saturation: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) of this height and width; shades of variance 1, and saturation (N, C) of each channel."""
    shrunk = max(1.0, max(size) / FINEST)
    drawn = _painted((round(size[0] / shrunk), round(size[1] / shrunk)), saturation, generator)
    return drawn if shrunk == 1 else functional.interpolate(drawn, size=size, mode="nearest")


def _painted(size: tuple[int, int], saturation: Tensor, generator: torch.Generator) -> Tensor:
    """The same, at any size."""
    count = len(saturation)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, MOST), generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn((count, *shape), generator=generator)

    least = drawn(*SMALLEST)[:, :1]
    radius = (least**-2 + drawn(0, 1) * (LARGEST**-2 - least**-2)) ** -0.5
    stretch, turn = drawn(-STRETCH, STRETCH).exp(), drawn(0, math.pi)
    across, down = drawn(-0.1, 1.1), drawn(-0.1, 1.1)
    number = (MOST * drawn(0, 1)[:, :1]).long()
    colors = normal(MOST, 1) + saturation.unsqueeze(1) * normal(MOST, saturation.shape[1])
    image = normal(1, 1, 1).expand(count, saturation.shape[1], *size)
    rows = ((torch.arange(size[0]) + 0.5) / size[0]).view(1, -1, 1)
    columns = ((torch.arange(size[1]) + 0.5) / size[1]).view(1, 1, -1)
    for i in range(MOST):
        some = (number > i).flatten()
        if not bool(some.any()):
            break
        x, y = columns - across[some, i].view(-1, 1, 1), rows - down[some, i].view(-1, 1, 1)
        cos, sin = turn[some, i].cos().view(-1, 1, 1), turn[some, i].sin().view(-1, 1, 1)
        long = stretch[some, i].view(-1, 1, 1)
        distance = ((cos * x + sin * y) * long).square() + ((cos * y - sin * x) / long).square()
        inside = (distance < radius[some, i].view(-1, 1, 1).square()).unsqueeze(1)
        image = image.clone() if i == 0 else image
        image[some] = torch.where(inside, colors[some, i, :, None, None], image[some])
    return image
