"""Input dropout: pixels, or patches, of each image overwritten by one value, others each round.

    x~ = m o x + (1 - m) fill,    m = 0 on a share of the pixels or patches, in all channels, uniform among such masks

Pixels as inputs dropped in Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout, JMLR 2014, without their
rescaling; patches as in Singh, Lee: Hide-and-Seek, ICCV 2017, who fill with the data's mean. The share is exact in each
image. Neither was published as a defense that we know of: it is what training does with masks anyway.
"""

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
    """A `share` of each image's pixels in [0, 1) overwritten by `fill`, in the data's own units.

    The defaults are ours. Raises DataError of data that is no images.
    """

    strength: ClassVar[str] = "fraction"
    side: ClassVar[int] = 1
    claim: ClassVar[Claim] = Claim(
        "the pixels that are dropped, in this round: they are not in the update at all",
        "whoever sees the update of one round",
        "finds what was filled, and fills it from the pixels around",
    )
    fraction: Fraction = 0.5
    fill: float = 0.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (self.erasure,)

    @property
    def erasure(self) -> ErasedPatches:
        """Which squares may be overwritten, by what value, and how many are."""
        return ErasedPatches(fill=self.fill, side=self.side, fraction=self.fraction)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), each with a mask of its own. Raises DataError of other inputs."""
        if inputs.ndim != 4:
            raise DataError(
                f"defense {type(self).__name__}",
                expected="images (B, C, H, W)",
                found=f"inputs of shape {tuple(inputs.shape)}",
                remedy="choose a defense that is not of pixels",
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
    """A `share` of each image's squares of `side` pixels in [0, 1) overwritten by `fill`, in the data's own units.

    Squares lie on a grid from the upper left corner; the last are cut where the image ends. The rest as PixelDropout.
    """

    claim: ClassVar[Claim] = Claim(
        "the patches that are dropped, in this round: they are not in the update at all",
        "whoever sees the update of one round",
        "finds what was filled, and fills it from the patches around: the edges of each, its middle poorly",
    )
    side: Count = 4  # type: ignore[misc]


def spread(masks: Tensor, height: int, width: int, side: int) -> Tensor:
    """What is said of squares (B, n), of each of their pixels (B, 1, H, W)."""
    grid = masks.view(len(masks), 1, -(-height // side), -(-width // side))
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]
