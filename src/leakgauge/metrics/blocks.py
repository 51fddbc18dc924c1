"""Blocks: whether what was found patch by patch shows at the borders of the patches."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import usable

BLOCKINESS_CEILING = 1e3
"""What no image scores more than, and what one that is not finite scores."""


def blockiness(images: Tensor, *, patch: int) -> Tensor:
    """How much more neighboring pixels differ across patch borders than inside: images (B, C, H, W) to (B,).

    The mean absolute difference of neighbors, above one another and side by side, across borders of
    patches of `patch` pixels a side, over the mean inside patches: 1 where there are no blocks, as in
    an image without structure or that has no patches, from 0 to BLOCKINESS_CEILING. It compares with
    no original; one's own blockiness is what to hold it against. Images in unit coordinates, clamped
    to [0, 1] first. Raises DataError for what are not images, and unless several patches of at least
    2 pixels a side tile them.
    """
    _check(images, patch)
    found = torch.full((len(images),), BLOCKINESS_CEILING, dtype=torch.float64)
    usables = usable(images)
    clamped = images[usables].detach().to("cpu", torch.float64).clamp(0, 1)
    across, inside = [], []
    for turned in (clamped, clamped.mT):
        steps = (turned[..., 1:, :] - turned[..., :-1, :]).abs()
        border = (torch.arange(1, turned.shape[-2]) % patch) == 0
        across.append(steps[..., border, :].flatten(1))
        inside.append(steps[..., ~border, :].flatten(1))
    tiny = torch.finfo(torch.float64).eps
    ratio = (torch.cat(across, 1).mean(1) + tiny) / (torch.cat(inside, 1).mean(1) + tiny)
    found[usables.cpu()] = ratio.clamp(max=BLOCKINESS_CEILING)
    return found


def _check(images: Tensor, patch: int) -> None:
    if images.ndim == 4 and len(images):
        height, width = images.shape[2:]
        if patch >= 2 and height % patch == width % patch == 0 and max(height, width) > patch:
            return
    raise DataError(
        "metric 'blockiness'",
        expected="images (B, C, H, W) tiled by several patches of at least 2 pixels a side",
        found=f"shape {tuple(images.shape)} and patches of {patch}",
        remedy="give the side of the model's patches",
    )
