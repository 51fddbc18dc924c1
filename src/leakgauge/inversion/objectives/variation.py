"""Total variation: what is believed of edges. One term for each way to measure a difference of neighbors.

    anisotropic   mean |d_v| + mean |d_h|                         of each channel
    isotropic     mean || (d_v, d_h) ||                           of each channel
    color         TV(brightness) + 4 TV(R - B) + 7 TV(R - 2G + B), anisotropic

d_v and d_h are differences of vertical and of horizontal neighbors. On a gray image color is anisotropic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from leakgauge.core import Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, Term

FLOOR = 1 / 512
"""Half an 8-bit level: differences below it are held to be none."""

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Brightness, red against blue, and both against green: orthogonal axes of the space of colors."""


class Variation(Term):
    """A total variation of images; subclasses give its value and its reweighted residuals."""

    local: ClassVar[bool] = True

    def of(self, images: Tensor) -> Tensor:
        """The value of images (B, C, H, W), a scalar."""
        raise NotImplementedError

    def reweighted(self, images: Tensor) -> Tensor:
        """Residuals r, their weights held: ||r||^2 is the value, but for differences below the floor."""
        raise NotImplementedError

    def inapplicable(self, observation: Observation) -> str | None:
        if image_grid(observation.domain) is None:
            return f"total variation is a prior on images, not on a {observation.domain.kind}: set tv = 0"
        return None

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.of(candidate.unit)

    def residuals(self, candidate: Candidate) -> Tensor:
        """For second order: as `reweighted`."""
        return self.reweighted(candidate.unit)


@dataclass(frozen=True)
class TotalVariation(Variation):
    """Mean absolute difference of neighboring pixels, horizontal plus vertical (Rudin et al. 1992), anisotropic.

    Images (B, C, H, W) of any channel count.
    """

    def of(self, images: Tensor) -> Tensor:
        return torch.stack([_mean(d.abs()) for d in differences(images)]).sum()

    def reweighted(self, images: Tensor) -> Tensor:
        """d / sqrt(|d|) with |d| held, whose square is |d| (floor: half an 8-bit level)."""
        return torch.cat([_reweighted(d).flatten() for d in differences(images)])


@dataclass(frozen=True)
class IsotropicVariation(Variation):
    """Mean length of the gradient (Rudin et al. 1992): an edge counts alike in any direction, on square images.

    Images (B, C, H, W). The length s is sqrt(s^2 + f^2) - f, f half an 8-bit level: smooth where the image is flat.
    """

    def of(self, images: Tensor) -> Tensor:
        vertical, horizontal = _beside(images)
        square = vertical.square() + horizontal.square()
        # Not the root less the floor, which cancels where both are nearly equal.
        return (square / (_length(square) + FLOOR)).sum() / _places(images)

    def reweighted(self, images: Tensor) -> Tensor:
        vertical, horizontal = _beside(images)
        held = _length((vertical.square() + horizontal.square()).detach()) + FLOOR
        weight = (held * _places(images)).rsqrt()
        return torch.cat([(d * weight).flatten() for d in (vertical, horizontal)])


@dataclass(frozen=True)
class ColorVariation(Variation):
    """Anisotropic total variation of opponent colors: their differences weigh `chroma` times as much as brightness.

    Images (B, 3, H, W), held to be red, green and blue. After double-opponent total variation (Astroem, Schnoerr:
    ECCV 2016), in orthogonal axes and with weights of our own: the ratios of amplitude in photographs, the
    roots of Smoothness's of energy.
    """

    chroma: tuple[float, float] = (4.0, 7.0)

    def inapplicable(self, observation: Observation) -> str | None:
        reason = super().inapplicable(observation)
        channels = observation.domain.shape[0]
        if reason is None and channels != len(OPPONENT):
            return f'color is of 3 channels, not of {channels}: set variation = "anisotropic"'
        return reason

    def of(self, images: Tensor) -> Tensor:
        return len(OPPONENT) * TotalVariation().of(self._weighted(images))

    def reweighted(self, images: Tensor) -> Tensor:
        return math.sqrt(len(OPPONENT)) * TotalVariation().reweighted(self._weighted(images))

    def _weighted(self, images: Tensor) -> Tensor:
        """The mean of the channels and two differences, axes of one length, each times its weight."""
        return opponent(images, images.new_tensor((1.0, *self.chroma)) / math.sqrt(len(OPPONENT)))


VARIATIONS: dict[str, Variation] = {
    "anisotropic": TotalVariation(),
    "isotropic": IsotropicVariation(),
    "color": ColorVariation(),
}
VariationName = Literal["anisotropic", "isotropic", "color"]
"""What a recipe's option `variation` may be."""


def opponent(images: Tensor, weights: Tensor) -> Tensor:
    """Images (B, 3, H, W) in orthonormal axes of brightness and two differences of color, times weights (3,)."""
    axes = normalize(images.new_tensor(OPPONENT), dim=1)
    return torch.einsum("kc,bchw->bkhw", weights[:, None] * axes, images)


def differences(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Of vertical and of horizontal neighbors of images (..., H, W)."""
    return unit[..., 1:, :] - unit[..., :-1, :], unit[..., :, 1:] - unit[..., :, :-1]


def _beside(images: Tensor) -> tuple[Tensor, Tensor]:
    """Both differences at each pixel, none across the last border."""
    vertical, horizontal = differences(images)
    return pad(vertical, (0, 0, 0, 1)), pad(horizontal, (0, 1))


def _places(images: Tensor) -> int:
    """How many differences there are in the direction that has more: an edge is as long as in anisotropic TV."""
    return max(1, *(d.numel() for d in differences(images)))


def _length(square: Tensor) -> Tensor:
    """sqrt(s^2 + f^2), f the floor."""
    return (square + FLOOR**2).sqrt()


def _reweighted(difference: Tensor) -> Tensor:
    held = difference.detach().abs().clamp_min(FLOOR)
    return difference / (held * max(1, difference.numel())).sqrt()


def _mean(values: Tensor) -> Tensor:
    """The mean, zero where an image one pixel wide has no neighbors."""
    return values.sum() / max(1, values.numel())
