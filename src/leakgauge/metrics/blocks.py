"""Blockiness: visible borders of patches that an attack reconstructed one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import are_finite

BLOCKINESS_CEILING = 1e3
"""Largest value, and the value of an image that is not finite."""


def blockiness(images: Tensor, *, patch: int) -> Tensor:
    r"""Compute how much more neighboring pixels differ across patch borders than inside patches.

    .. math::

        \frac{\mathrm{mean}_{(p, q) \text{ across a border}} \; |x_p - x_q|}
        {\mathrm{mean}_{(p, q) \text{ inside a patch}} \; |x_p - x_q|}

    Here :math:`x_p, x_q` are neighboring pixels, vertically or horizontally. The value is 1 if
    there are no blocks, also for an image without structure. It is from 0 to `BLOCKINESS_CEILING`,
    1000. Larger values mean more visible blocks. It needs no original; compare it with the
    blockiness of the original.

    Args:
        images: Images (B, C, H, W). They are clamped to [0, 1] first. Images that are not finite
            get the ceiling.
        patch: Side of a patch in pixels, at least 2. Several patches must tile the image.

    Returns:
        The values (B,).

    Raises:
        DataError: The inputs are no images, or several patches of this size do not tile them.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> image = torch.tensor([[0.0, 0.1], [0.2, 0.3]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
        >>> float(lg.metrics.blockiness(image[None, None], patch=4))
        1000.0
    """
    _check(images, patch)
    found = torch.full((len(images),), BLOCKINESS_CEILING, dtype=torch.float64)
    usables = are_finite(images)
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
    """Raise DataError unless several patches tile the images."""
    if images.ndim == 4 and len(images):
        height, width = images.shape[2:]
        if patch >= 2 and height % patch == width % patch == 0 and max(height, width) > patch:
            return
    raise DataError(
        "metric 'blockiness'",
        expected="images (B, C, H, W) tiled by several patches of at least 2 pixels a side",
        found=f"shape {tuple(images.shape)} and patches of {patch}",
        remedy="set patch to the side of the model's patches in pixels",
    )
