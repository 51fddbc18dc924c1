"""Priors: what an adversary believes of an example before seeing the update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leakgauge.core import Observation
from leakgauge.inversion.objective import Candidate, Term


@dataclass(frozen=True)
class TotalVariation(Term):
    """Mean absolute difference of neighboring pixels, horizontal plus vertical (Rudin et al. 1992), anisotropic.

    Images (B, C, H, W) of any channel count.
    """

    def inapplicable(self, observation: Observation) -> str | None:
        if observation.domain.kind != "image":
            return f"total variation is a prior on images, not on a {observation.domain.kind}: set tv = 0"
        return None

    def __call__(self, candidate: Candidate) -> Tensor:
        unit = candidate.unit
        vertical = _mean((unit[..., 1:, :] - unit[..., :-1, :]).abs())
        horizontal = _mean((unit[..., :, 1:] - unit[..., :, :-1]).abs())
        return vertical + horizontal


def _mean(values: Tensor) -> Tensor:
    """The mean, zero where an image one pixel wide has no neighbors."""
    return values.sum() / max(1, values.numel())
