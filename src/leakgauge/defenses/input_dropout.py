"""Input dropout: pixels or patches of each image are overwritten, at other places in each round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, DataError, Effect, ErasedPatches, Seeds
from leakgauge.core.ranges import Count, Fraction
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class PixelDropout(Undefended):
    r"""Overwrite a fraction of each image's pixels by one value.

    It acts on the batch before the gradient is computed. The places are drawn anew for each image
    and each round. All channels of a pixel are overwritten together.

    .. math::

        \tilde x = m \odot x + (1 - m) \, c

    Here :math:`x` is an image and :math:`c` is `fill`. The mask :math:`m` is 0 at the overwritten
    pixels and 1 elsewhere. It is uniform among masks with that number of zeros.

    The overwritten pixels are not in the update of that round. An adaptive adversary reconstructs
    the overwritten image, finds the pixels that equal the fill, and fills them in from their
    neighbors. The attack `Inpainting` does this.

    Args:
        fraction: Fraction of the pixels, in [0, 1), rounded down to whole pixels. It is the same in
            each image. The default is ours.
        fill: Value of the overwritten pixels, in the data's own units. The default is ours.

    Raises:
        DataError: The inputs are no images (B, C, H, W).

    References:
        Ours as a defense. Training with dropped pixels: Srivastava, Hinton, Krizhevsky, Sutskever,
        Salakhutdinov. Dropout: A Simple Way to Prevent Neural Networks from Overfitting. JMLR 2014.
        There the other pixels are rescaled.

    Example:
        >>> import leakgauge as lg
        >>> batch = lg.examples.batch(2)
        >>> defense = lg.defenses.PixelDropout(fraction=0.5, fill=-1.0)
        >>> images, labels = defense.on_batch(batch.inputs, batch.targets, seeds=lg.Seeds(0))
        >>> (images == -1).sum((1, 2, 3))
        tensor([32, 32])
    """

    strength: ClassVar[str] = "fraction"
    side: ClassVar[int] = 1
    claim: ClassVar[Claim] = Claim(
        "the pixels that are overwritten in this round. They are not in the update",
        "anyone who sees the update of one round",
        "finds the overwritten pixels and fills them in from their neighbors (attack inpainting)",
    )
    fraction: Fraction = 0.5
    fill: float = 0.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (self.erasure,)

    @property
    def erasure(self) -> ErasedPatches:
        """The squares that may be overwritten, their fill, and their number."""
        return ErasedPatches(fill=self.fill, side=self.side, fraction=self.fraction)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), each with its own mask, and the targets unchanged.

        Raises:
            DataError: The inputs have another shape.
        """
        if inputs.ndim != 4:
            raise DataError(
                f"defense {type(self).__name__}",
                expected="images (B, C, H, W)",
                found=f"inputs of shape {tuple(inputs.shape)}",
                remedy="choose a defense that does not overwrite pixels",
            )
        height, width = inputs.shape[-2:]
        generator = seeds.generator("input dropout")
        erasure = self.erasure
        count, total = erasure.erased(height, width), erasure.squares(height, width)
        masks = torch.zeros(len(inputs), total, dtype=torch.bool)
        for mask in masks:
            mask[torch.randperm(total, generator=generator)[:count]] = True
        where = spread(masks, height, width, self.side).to(inputs.device)
        return torch.where(where, self.fill, inputs), targets


@dataclass(frozen=True, kw_only=True)
class PatchDropout(PixelDropout):
    r"""Overwrite a fraction of each image's square patches by one value.

    It acts on the batch before the gradient is computed. It does to patches what `PixelDropout`
    does to pixels. Patches lie on a grid from the upper left corner. The last ones are cut where
    the image ends.

    .. math::

        \tilde x = m \odot x + (1 - m) \, c

    Here :math:`x` is an image and :math:`c` is `fill`. The mask :math:`m` is 0 in the overwritten
    patches and 1 elsewhere.

    An adaptive adversary fills the patches in from their neighbors. It fills the edges of a patch
    well and the middle poorly. The attack `Inpainting` does this.

    Args:
        fraction: Fraction of the patches, in [0, 1), rounded down to whole patches. It is the same
            in each image. The default is ours.
        fill: Value of the overwritten pixels, in the data's own units. The default is ours.
        side: Side of a patch in pixels, at least 1. The default is ours.

    Raises:
        DataError: The inputs are no images (B, C, H, W).

    References:
        Ours as a defense. Training with dropped patches: Singh, Lee. Hide-and-Seek: Forcing a
        Network to be Meticulous for Weakly-supervised Object and Action Localization. ICCV 2017.
        arXiv:1704.04232. There the fill is the data's mean.

    Example:
        >>> import leakgauge as lg
        >>> batch = lg.examples.batch(2)
        >>> defense = lg.defenses.PatchDropout(fraction=0.5, side=4, fill=-1.0)
        >>> images, labels = defense.on_batch(batch.inputs, batch.targets, seeds=lg.Seeds(0))
        >>> (images == -1).sum((1, 2, 3))
        tensor([32, 32])
    """

    claim: ClassVar[Claim] = Claim(
        "the patches that are overwritten in this round. They are not in the update",
        "anyone who sees the update of one round",
        "finds the overwritten patches and fills them in from their neighbors, the edges well and the middle poorly "
        "(attack inpainting)",
    )
    side: Count = 4  # type: ignore[misc]


def spread(masks: Tensor, height: int, width: int, side: int) -> Tensor:
    """Return the mask of pixels (B, 1, H, W) for masks of squares (B, n).

    Args:
        masks: Masks (B, n), one entry for each square, row by row.
        height: Height H of the images in pixels.
        width: Width W of the images in pixels.
        side: Side of a square in pixels.
    """
    grid = masks.view(len(masks), 1, -(-height // side), -(-width // side))
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]
