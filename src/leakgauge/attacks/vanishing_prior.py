"""Matching with a vanishing prior, by first order. Ours: the prior of `second_order`, for any local training.

    minimize over x   sum_l || u_l(x, y) - u*_l ||^2 / (|| u*_l || || u* ||)  +  w p(x)
    p(x) = (|| Laplacian x ||^2 + distance(x, [0, 1]^n)^2) / n,   color counting more than brightness

by L-BFGS with a line search, w falling geometrically. It needs no more of the local training than that it
can be simulated and differentiated: one gradient, local steps, or an aggregate.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import (
    LBFGS,
    BalancedL2,
    Direct,
    GeometricSchedule,
    GradientMatching,
    InRange,
    Known,
    Smoothness,
    Term,
)


@dataclass(frozen=True, kw_only=True)
class VanishingPrior(Recipe):
    """L-BFGS for smooth networks. The prior's weight falls from `smoothness` to `remains` of it; on tables, set 0.

    An adversary whose simulation leaves a misfit keeps more of the prior: `remains` of 0.1, not 1e-6.
    """

    steps: Count = 1000
    smoothness: NonNegative = 1.0
    remains: Positive = 1e-6
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=vanishing(self.smoothness, self.remains),
            parametrization=Direct(center=0.5, noise=0.01),
            labels=Known(),
            descent=LBFGS(steps=self.steps, line_search="strong_wolfe"),
            restarts=self.restarts,
        )


def vanishing(smoothness: float, remains: float) -> Term:
    """The balanced distance and a prior whose weight falls from `smoothness` to `remains` of it, or is 0 throughout."""
    if smoothness == 0:
        return BalancedL2()
    weight = GeometricSchedule(smoothness, remains * smoothness)
    return BalancedL2() + weight * (InRange() + Smoothness())
