"""Deep Leakage from Gradients with settings of our own, named apart from the paper's.

    minimize over x, y   sum_l || dL(f(x), softmax(y)) / dtheta_l - g*_l ||^2 / (|| g*_l || || g* ||)

The idea and the joint labels are those of Zhu et al. (NeurIPS 2019). What lets it finish: layer
weights, a strong Wolfe line search with a long memory, float64 in the adversary's own copy of the
model, and a start near the middle of the public range, every class alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.inversion import LBFGS, BalancedL2, Direct, GradientMatching, Joint, Known

SCALE = 1e6
"""The objective's unit: torch's L-BFGS drops curvature pairs with y's <= 1e-10, an absolute number."""


@dataclass(frozen=True, kw_only=True)
class BalancedDLG(Recipe):
    """DLG with layer weights, line search, long memory and float64. Our settings, not the paper's.

    `tolerance` is on the objective above, which has no unit. `labels` are optimized jointly, or granted
    or recovered first where that can be done.
    """

    steps: Count = 100
    restarts: Count = 1
    tolerance: NonNegative = 1e-8
    labels: Literal["joint", "recovered"] = "joint"

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=SCALE * BalancedL2(),
            parametrization=Direct(center=0.5, noise=0.01),
            labels=Joint(spread=0.0) if self.labels == "joint" else Known(),
            descent=LBFGS(steps=25 * self.steps, history=300, line_search="strong_wolfe"),
            restarts=self.restarts,
            tolerance=SCALE * self.tolerance,
            precision="double",
        )
