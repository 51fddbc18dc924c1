"""Images that look like photographs to a layer, made without any data.

Each is a heap of ellipses and boxes of drawn colors, which cover each other, with a texture whose
amplitudes fall with the frequency. The edges, plain areas and correlated colors are those of
photographs.

References:
    Ours. Heaps of shapes are the dead leaves of Lee, Mumford, Huang. Occlusion models for natural
    images. IJCV 2001.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.waves import Waves

LEAVES, SMALLEST, LARGEST = 40, 2.0, 0.8
"""Number of shapes of an image, their least radius in pixels, and the largest relative to the image."""
HUE, LONG = 0.25, 0.6
"""Spread of the channels of a color around its brightness, and of the logarithm of a shape's axes."""
GRAY_TEXTURE, COLOR_TEXTURE = 0.12, 0.05
"""Largest deviations of the texture of all channels, and of that of each channel."""


def made_images(count: int, shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Return images `(count, C, *size)` in unit coordinates, in float32.

    Args:
        count: Number of images.
        shape: Shape `(C, *size)` of one.
        generator: Source of the images.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.made_images import made_images
        >>> found = made_images(2, (3, 8, 8), generator=torch.Generator().manual_seed(0))
        >>> found.shape, bool((found >= 0).all()), bool((found <= 1).all())
        (torch.Size([2, 3, 8, 8]), True, True)
    """
    channels, size = shape[0], shape[1:]
    space = [1] * len(size)
    bright = torch.rand(count, LEAVES, 1, generator=generator)
    hue = torch.randn(count, LEAVES, channels, generator=generator)
    colors = (bright + HUE * hue).clamp(0, 1).reshape(count, LEAVES, channels, *space)
    found = colors[:, 0].expand(count, channels, *size).clone()
    for leaf, cover in enumerate(_covers(count, size, generator), 1):
        found.lerp_(colors[:, leaf].expand_as(found), cover[:, None])
    strength = torch.rand(count, 1, *space, generator=generator)
    gray, color = (_texture(count, k, size, generator) for k in (1, channels))
    return (found + strength * (GRAY_TEXTURE * gray + COLOR_TEXTURE * color)).clamp(0, 1)


def _covers(count: int, size: tuple[int, ...], generator: torch.Generator) -> Iterator[Tensor]:
    """Yield, shape by shape, how much it covers each place of each image, `(count, *size)`."""
    axes, leaves = len(size), LEAVES - 1
    # Rows of turned matrices are the axes of a shape.
    turned, _ = torch.linalg.qr(torch.randn(leaves, count, axes, axes, generator=generator))
    turned = turned * torch.exp(LONG * torch.randn(leaves, count, axes, 1, generator=generator))
    centers = torch.rand(leaves, count, axes, generator=generator) * torch.tensor(size)
    box = torch.rand(leaves, count, generator=generator) < 0.5
    # The density of radii falls with the square, as in photographs.
    least = SMALLEST / max(LARGEST * max(size), SMALLEST)
    drawn = torch.rand(leaves, count, generator=generator)
    radii = SMALLEST / (least + (1 - least) * drawn)
    space = [1] * axes
    places = [
        torch.arange(n, dtype=torch.float32).reshape([-1 if i == a else 1 for i in range(axes)])
        for a, n in enumerate(size)
    ]
    for leaf in range(leaves):
        boxed = box[leaf].reshape(-1, *space)
        apart = torch.zeros(())
        for row in turned[leaf].unbind(1):
            start = (row * centers[leaf]).sum(1)
            offset = -start.reshape(-1, *space)
            for a in range(axes):
                offset = offset + row[:, a].reshape(-1, *space) * places[a]
            square = offset.square()
            apart = torch.where(boxed, torch.maximum(apart, square), apart + square)
        yield (radii[leaf].reshape(-1, *space) + 0.5 - apart.sqrt()).clamp(0, 1)


def _texture(
    count: int, channels: int, size: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Return textures `(count, channels, *size)` of mean 0 and deviation 1."""
    waves = torch.randn(count, channels, *size, generator=generator)
    found = Waves(size, waves).image(waves)
    space = [1] * len(size)
    found = found - found.flatten(1).mean(1).reshape(-1, 1, *space)
    size_of = found.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
    return found / size_of.reshape(-1, 1, *space)
