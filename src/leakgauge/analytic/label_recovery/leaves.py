"""Dummy images of the dead leaves model: shapes of one color that hide each other.

Their sizes follow a power law. The images have edges, flat parts and the spectrum of photographs.
Number of leaves, size of the smallest leaf, saturation and grain are drawn for each image. So among
many images, some resemble any given photograph.

References:
    Lee, Mumford, Huang. Occlusion Models for Natural Images: A Statistical Study of a
    Scale-Invariant Dead Leaves Model. International Journal of Computer Vision 41, 2001.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

FINEST = 64
"""Longer side, in pixels, of the largest image that is painted. Larger images are enlarged from this size."""
MOST = 120
"""Largest number of leaves in an image."""
SMALLEST, LARGEST = (0.02, 0.12), 0.6
"""Range of the size of the smallest leaf, and size of the largest, as fractions of the image's side."""
STRETCH = 0.7
"""Largest logarithm of the factor by which a leaf is longer, and narrower, than a disk."""


def leaves(size: tuple[int, int], saturation: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W) of leaves, with shades of variance 1.

    Args:
        size: Height and width in pixels.
        saturation: (N, C), standard deviation of the color that each channel adds.
        generator: Source of the draws.
    """
    shrunk = max(1.0, max(size) / FINEST)
    drawn = _paint((round(size[0] / shrunk), round(size[1] / shrunk)), saturation, generator)
    return drawn if shrunk == 1 else functional.interpolate(drawn, size=size, mode="nearest")


def _paint(size: tuple[int, int], saturation: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images of `leaves`, painted at this size."""
    count = len(saturation)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, MOST), generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn((count, *shape), generator=generator)

    least = draw(*SMALLEST)[:, :1]
    radius = (least**-2 + draw(0, 1) * (LARGEST**-2 - least**-2)) ** -0.5
    stretch, turn = draw(-STRETCH, STRETCH).exp(), draw(0, math.pi)
    across, down = draw(-0.1, 1.1), draw(-0.1, 1.1)
    number = (MOST * draw(0, 1)[:, :1]).long()
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
