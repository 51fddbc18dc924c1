"""Priors: what an adversary believes of an example before seeing the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from leakgauge.core import Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares
from leakgauge.inversion.objectives.variation import FLOOR, OPPONENT, differences, opponent


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
        if image_grid(observation.domain) is None:
            return f"smoothness is a prior on images, not on a {observation.domain.kind}"
        return None

    def residuals(self, candidate: Candidate) -> Tensor:
        vertical, horizontal = differences(self._weighted(candidate.unit))
        # The difference of neighboring differences; across a border there is none.
        laplacian = pad(vertical, (0, 0, 0, 1)) - pad(vertical, (0, 0, 1, 0))
        laplacian = laplacian + pad(horizontal, (0, 1)) - pad(horizontal, (1, 0))
        return laplacian.flatten() / math.sqrt(laplacian.numel())

    def _weighted(self, unit: Tensor) -> Tensor:
        """Opponent colors, each times the root of its weight."""
        if unit.shape[-3] != len(OPPONENT):
            return unit
        return opponent(unit, unit.new_tensor((1.0, *self.chroma)).sqrt())


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


@dataclass(frozen=True)
class Orthogonality(LeastSquares):
    """Mean squared correlation of two examples of the batch, their values centered; 0 of one alone.

    Examples (B, *shape) of any domain. That examples of a batch be orthogonal is asked by Qian et al.:
    Minimal Conditions Analysis of Gradient-based Reconstruction in Federated Learning, 2020, of their products pixel
    by pixel; the correlation, which gains nothing from darker or flatter examples, is ours.
    """

    collective: ClassVar[bool] = True

    def residuals(self, candidate: Candidate) -> Tensor:
        rows = candidate.unit.flatten(1)
        centered = rows - rows.mean(1, keepdim=True)
        # A flat example correlates with none, and has a slope.
        square = centered.square().sum(1).clamp_min(FLOOR**2)
        one, other = torch.triu_indices(len(rows), len(rows), 1)
        inner = (centered[one] * centered[other]).sum(1)
        return inner / (square[one] * square[other]).sqrt() / math.sqrt(max(1, len(one)))
