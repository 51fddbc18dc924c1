"""Gradient matching on a smoothed copy of a ReLU network. Ours; we know of no publication of the whole.

    minimize over x   log(1 + D(x) / 1e-7)  +  tv TV(x)  +  5 distance(x, [0, 1]^n)^2 / n
    D(x) = 1 - <g(x, y), g*> / (||g(x, y)|| ||g*||)

by L-BFGS with line search over cosine coefficients, each scaled as in natural images. g is simulated
with w softplus(z / w) for ReLU: only so is there curvature to follow. The logarithm lets the prior fall with D.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.inversion import (
    LBFGS,
    VARIATIONS,
    Cosine,
    GradientMatching,
    InRange,
    Known,
    Logarithm,
    Spectral,
    Term,
    VariationName,
)


@dataclass(frozen=True, kw_only=True)
class SmoothedMatching(Recipe):
    """L-BFGS on a smoothed copy of a ReLU network, for deep ReLU networks and batch 1. On tables, set tv = 0.

    `smoothing` is the softplus width w, against inputs of a ReLU of about 1; 0 leaves the network as it
    is. `tv` is relative: it weighs tv times D; `variation` says which. Labels are known, or read first.
    """

    steps: Count = 400
    smoothing: NonNegative = 0.2
    tv: NonNegative = 2.0
    variation: VariationName = "anisotropic"
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        objective: Term = Logarithm(Cosine()) + 5.0 * InRange()
        if self.tv > 0:
            objective = objective + self.tv * VARIATIONS[self.variation]
        return GradientMatching(
            objective=objective,
            parametrization=Spectral(center=0.5, noise=0.3),
            labels=Known(),
            descent=LBFGS(steps=self.steps, history=100, line_search="strong_wolfe"),
            restarts=self.restarts,
            halving=self.restarts > 1,
            smoothing=self.smoothing,
        )
