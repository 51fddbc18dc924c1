"""Inverting Gradients. Geiping, Bauermeister, Dröge, Moeller: NeurIPS 2020, equation 4.

    minimize over x in [0, 1]^n   1 - <g(x, y), g*> / (||g(x, y)|| ||g*||)  +  tv TV(x)

by Adam on the sign of the gradient, the labels known or recovered first.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import (
    VARIATIONS,
    Cosine,
    Direct,
    GradientMatching,
    Known,
    Orthogonality,
    SignedAdam,
    Term,
    VariationName,
)


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(Recipe):
    """Cosine distance with total variation, signed Adam, in a box. On tables, set tv = 0.

    The paper starts from N(0, 1) and steps by 0.1 in *normalized* pixels: here the start has the
    spread of a normalized CIFAR-10 pixel, 0.25 about 0.5, and steps are in units of that spread.
    `variation` says which total variation; `orthogonality`, not in the paper, keeps the examples of a
    batch from being blends of each other.
    """

    steps: Count = 24_000
    lr: Positive = 0.1
    tv: NonNegative = 1e-4
    variation: VariationName = "anisotropic"
    orthogonality: NonNegative = 0.0
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        objective: Term = Cosine()
        if self.tv > 0:
            objective = objective + self.tv * VARIATIONS[self.variation]
        if self.orthogonality > 0:
            objective = objective + self.orthogonality * Orthogonality()
        return GradientMatching(
            objective=objective,
            parametrization=Direct(center=0.5, spread=0.25, box=True),
            labels=Known(),
            descent=SignedAdam(steps=self.steps, lr=self.lr),
            restarts=self.restarts,
        )
