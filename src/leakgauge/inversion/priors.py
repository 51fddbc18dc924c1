"""Priors: what an adversary believes of an example before seeing the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from leakgauge.core import Observation
from leakgauge.inversion.objective import Candidate, LeastSquares, Term

FLOOR = 1 / 512
"""Half an 8-bit level: differences below it are held to be none."""

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Brightness, red against blue, and both against green: orthogonal axes of the space of colors."""


@dataclass(frozen=True)
class TotalVariation(Term):
    """Mean absolute difference of neighboring pixels, horizontal plus vertical (Rudin et al. 1992), anisotropic.

    Images (B, C, H, W) of any channel count.
    """

    local: ClassVar[bool] = True

    def inapplicable(self, observation: Observation) -> str | None:
        if observation.domain.kind != "image":
            return f"total variation is a prior on images, not on a {observation.domain.kind}: set tv = 0"
        return None

    def __call__(self, candidate: Candidate) -> Tensor:
        return total_variation(candidate.unit)

    def residuals(self, candidate: Candidate) -> Tensor:
        """Reweighted least squares: d / sqrt(|d|) with |d| held, whose square is |d| (floor: half an 8-bit level)."""
        return torch.cat([_reweighted(d).flatten() for d in _differences(candidate.unit)])


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighboring pixels of images (..., H, W), horizontal plus vertical."""
    return torch.stack([_mean(d.abs()) for d in _differences(images)]).sum()


def _reweighted(difference: Tensor) -> Tensor:
    held = difference.detach().abs().clamp_min(FLOOR)
    return difference / (held * max(1, difference.numel())).sqrt()


@dataclass(frozen=True)
class Smoothness(LeastSquares):
    """Mean squared Laplacian of the image, borders repeated (Tikhonov regularization of second order).

    Images (B, C, H, W). Quadratic, so that second-order descent sees it whole. Three channels are held
    to be red, green and blue: their differences, red - blue and red - 2 green + blue, weigh `chroma`
    times as much as their sum, since photographs vary so much less in color than in brightness
    (Ruderman et al. 1998; the defaults are the ratios of energy in photographs, benchmarks/color.py).
    """

    local: ClassVar[bool] = True
    chroma: tuple[float, float] = (16.0, 50.0)

    def inapplicable(self, observation: Observation) -> str | None:
        if observation.domain.kind != "image":
            return f"smoothness is a prior on images, not on a {observation.domain.kind}"
        return None

    def residuals(self, candidate: Candidate) -> Tensor:
        vertical, horizontal = _differences(self._weighted(candidate.unit))
        # The difference of neighboring differences; across a border there is none.
        laplacian = pad(vertical, (0, 0, 0, 1)) - pad(vertical, (0, 0, 1, 0))
        laplacian = laplacian + pad(horizontal, (0, 1)) - pad(horizontal, (1, 0))
        return laplacian.flatten() / math.sqrt(laplacian.numel())

    def _weighted(self, unit: Tensor) -> Tensor:
        """Opponent colors, each times the root of its weight."""
        if unit.shape[-3] != len(OPPONENT):
            return unit
        weights = unit.new_tensor((1.0, *self.chroma)).sqrt()
        axes = torch.nn.functional.normalize(unit.new_tensor(OPPONENT), dim=1)
        return torch.einsum("kc,bchw->bkhw", weights[:, None] * axes, unit)


@dataclass(frozen=True)
class Energy(LeastSquares):
    """Mean squared distance to 1/2, the middle, in unit coordinates: the l2 prior on centered examples. Any domain."""

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        return (candidate.unit - 0.5).flatten() / math.sqrt(candidate.unit.numel())


@dataclass(frozen=True)
class InRange(LeastSquares):
    """Mean squared distance to [0, 1], the public range, in unit coordinates. Any domain."""

    local: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        unit = candidate.unit
        return (unit - unit.clamp(0, 1)).flatten() / math.sqrt(unit.numel())


def _differences(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Of vertical and of horizontal neighbors."""
    return unit[..., 1:, :] - unit[..., :-1, :], unit[..., :, 1:] - unit[..., :, :-1]


def _mean(values: Tensor) -> Tensor:
    """The mean, zero where an image one pixel wide has no neighbors."""
    return values.sum() / max(1, values.numel())
