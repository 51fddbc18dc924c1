"""Image operations of AutoAugment's library, as ATS uses them, in torch.

Cubuk, Zoph, Mané, Vasudevan, Le. AutoAugment: Learning Augmentation Strategies from Data. CVPR
2019. arXiv:1805.09501.

Each operation gives the same result as Pillow's operation of that name. Values are in [0, 1] and
need not be 8-bit. Only posterize and equalize round values, because they are defined on 256 levels.

An adversary differentiates the operations. Clamping and rounding to levels pass the gradient
unchanged (straight through).

Most operations have a magnitude m, which an index from 0 to 9 selects. Some have a direction s, 1
or -1, which is drawn.
In an image of width W::

    shear x        out(i, j) = in(i, j + m s (i + 1/2)), cubic
    translate x    out(i, j) = in(i, j + m s W)
    enhance        d + (1 + m s) (in - d), clamped

In "enhance", d is the gray image, its mean, black, or the smoothed image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, one_hot

LEVELS = 255
LUMA = (0.299, 0.587, 0.114)
ROTATION_FILL = 128 / LEVELS


class Operation(NamedTuple):
    """One image operation.

    Args:
        apply: Function from images (B, C, H, W) and a magnitude to images of the same shape.
        span: Magnitudes at the indices 0 and 9.
        signed: Whether the operation has two directions.
    """

    apply: Callable[[Tensor, float], Tensor]
    span: tuple[float, float]
    signed: bool

    def magnitude(self, index: int) -> float:
        """Return the magnitude at an index from 0 to 9."""
        low, high = self.span
        return low + (high - low) * index / 9


def translate(images: Tensor, fraction: float, *, axis: int) -> Tensor:
    """Move images by a fraction of their side, to the nearest pixel. Uncovered pixels become black."""
    side = images.shape[axis]
    source = (torch.arange(side, dtype=torch.float64) + 0.5 + fraction * side).floor().long()
    inside = (source >= 0) & (source < side)
    moved = images.index_select(axis, source.clamp(0, side - 1).to(images.device))
    shape = [side if a == axis % images.ndim else 1 for a in range(images.ndim)]
    return moved * inside.to(images).view(shape)


def shear(images: Tensor, slope: float, *, axis: int) -> Tensor:
    """Move each row (axis -1) or column (axis -2) in proportion to its place.

    Interpolation is cubic. Uncovered pixels become black.
    """
    if axis == -2:
        return shear(images.transpose(-1, -2), slope, axis=-1).transpose(-1, -2)
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    place = torch.arange(width, dtype=torch.float64)[None, :] + 0.5 + slope * rows
    inside = ((place >= 0) & (place < width)).to(images)
    left = (place - 0.5).floor()
    found = torch.zeros_like(images)
    for tap in range(-1, 3):
        weight = _cubic((place - 0.5 - left - tap).abs()).to(images)
        index = (left + tap).long().clamp(0, width - 1).to(images.device)
        found = found + weight * images.gather(-1, index.expand(images.shape))
    return clamp_straight_through(found) * inside


def _cubic(distance: Tensor) -> Tensor:
    """Return Keys' kernel with a = -1, as in Pillow's transforms."""
    near = (distance - 2) * distance.square() + 1
    far = ((5 - distance) * distance - 8) * distance + 4
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turn images counterclockwise about their middle, to the nearest pixel. Uncovered pixels become gray."""
    height, width = images.shape[-2:]
    angle = -math.radians(degrees)
    down = torch.arange(height, dtype=torch.float64)[:, None] + 0.5 - height / 2
    across = torch.arange(width, dtype=torch.float64)[None, :] + 0.5 - width / 2
    column = (math.cos(angle) * across + math.sin(angle) * down + width / 2).floor().long()
    row = (-math.sin(angle) * across + math.cos(angle) * down + height / 2).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten()
    turned = images.flatten(-2)[..., index.to(images.device)].view(images.shape)
    return torch.where(inside.to(images.device), turned, ROTATION_FILL)


def blend(images: Tensor, factor: float, degenerate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return degenerate + factor * (images - degenerate), clamped, as Pillow's ImageEnhance does."""
    base = degenerate(images)
    return clamp_straight_through(base + factor * (images - base))


def gray(images: Tensor) -> Tensor:
    """Return the brightness in every channel. Images without three channels stay unchanged."""
    if images.shape[-3] != 3:
        return images
    weights = images.new_tensor(LUMA)[:, None, None]
    return (images * weights).sum(-3, keepdim=True).expand(images.shape)


def mean_gray(images: Tensor) -> Tensor:
    """Return images filled with the mean brightness of each image."""
    return gray(images).mean((-3, -2, -1), keepdim=True).expand(images.shape)


def smooth(images: Tensor) -> Tensor:
    """Return weighted means of 3 x 3 pixels, where the middle counts five times. The border stays unchanged."""
    if min(images.shape[-2:]) < 3:
        return images
    kernel = images.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    inner = conv2d(images.flatten(0, -3).unsqueeze(1), kernel / kernel.sum())
    found = images.clone()
    found[..., 1:-1, 1:-1] = inner.view(*images.shape[:-2], *inner.shape[-2:])
    return found


def posterize(images: Tensor, bits: float) -> Tensor:
    """Keep the highest of eight bits. `bits` is rounded to a whole number."""
    step = 2 ** (8 - round(bits))
    levels = (images * LEVELS).round()
    return straight_through((levels / step).floor() * step / LEVELS, images)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert the values from `threshold` on. The threshold is a level from 0 to 256."""
    return torch.where(images * LEVELS < threshold, images, 1 - images)


def stretch(images: Tensor, _: float) -> Tensor:
    """Stretch each channel to [0, 1] (autocontrast). A flat channel stays unchanged."""
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    flat = high <= low
    span = torch.where(flat, torch.ones_like(high), high - low)
    return torch.where(flat, images, (images - low) / span)


def equalize(images: Tensor, _: float) -> Tensor:
    """Flatten the histogram of 256 levels of each channel, as Pillow does."""
    levels = (images.detach() * LEVELS).round().clamp(0, LEVELS).long()
    histogram = one_hot(levels.flatten(-2), LEVELS + 1).sum(-2)
    last = levels.amax((-2, -1))
    top = histogram.gather(-1, last[..., None])
    step = (histogram.sum(-1, keepdim=True) - top) // LEVELS
    before = histogram.cumsum(-1) - histogram
    table = (before + step // 2).div(step.clamp_min(1), rounding_mode="floor").clamp(0, LEVELS)
    found = table.gather(-1, levels.flatten(-2)).view(images.shape).to(images) / LEVELS
    kept = (step == 0)[..., None]
    return torch.where(kept, images, straight_through(found, images))


def straight_through(found: Tensor, images: Tensor) -> Tensor:
    """Return `found`, with the derivative of `images`."""
    return images + (found - images).detach() if images.requires_grad else found


def clamp_straight_through(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and keep the derivative. A search can then leave the range and come back."""
    return straight_through(images.clamp(0, 1), images)


def make_enhancement(degenerate: Callable[[Tensor], Tensor]) -> Operation:
    """Return an operation that moves images away from `degenerate` or towards it, by at most a half."""
    return Operation(
        lambda images, m: blend(images, 1 + m, degenerate), span=(0.0, 0.5), signed=True
    )


TRANSLATION = (0.0, 150 / 331)
OPERATIONS: dict[str, Operation] = {
    "shear_x": Operation(partial(shear, axis=-1), (0.0, 0.3), signed=True),
    "shear_y": Operation(partial(shear, axis=-2), (0.0, 0.3), signed=True),
    "translate_x": Operation(partial(translate, axis=-1), TRANSLATION, signed=True),
    "translate_y": Operation(partial(translate, axis=-2), TRANSLATION, signed=True),
    "rotate": Operation(rotate, (0.0, 30.0), signed=False),
    "color": make_enhancement(gray),
    "posterize": Operation(posterize, (8.0, 4.0), signed=False),
    "solarize": Operation(solarize, (256.0, 0.0), signed=False),
    "contrast": make_enhancement(mean_gray),
    "sharpness": make_enhancement(smooth),
    "brightness": make_enhancement(torch.zeros_like),
    "autocontrast": Operation(stretch, (0.0, 0.0), signed=False),
    "equalize": Operation(equalize, (0.0, 0.0), signed=False),
    "invert": Operation(lambda images, _: 1 - images, (0.0, 0.0), signed=False),
}
