"""Second-order gradient matching with a vanishing prior. Ours; we know of no publication.

    minimize over x, y   sum_l || g_l(x, y) - g*_l ||^2 / (|| g*_l || || g* ||)  +  w p(x)
    p(x) = (|| Laplacian x ||^2 + distance(x, [0, 1]^n)^2) / n,   color counting more than brightness

by L-BFGS and then by Gauss-Newton, w falling from 1 towards zero. The prior leads through the early
steps, when the gradients disagree about everything; at the end it decides only what the update leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.vanishing_prior import vanishing
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.inversion import (
    Affine,
    Direct,
    GaussNewton,
    GradientMatching,
    Known,
)


@dataclass(frozen=True, kw_only=True)
class SecondOrder(Recipe):
    """Least squares to the end of float64, for smooth networks and small batches.

    `smoothness` is the prior's weight at the start, against an objective of about 1; on tables, set 0.
    `tolerance` is on the objective. `labels` as in BalancedDLG. Stages as in GaussNewton.
    """

    warm: Count = 7
    iterations: Count = 300
    stages: Count = 6
    smoothness: NonNegative = 1.0
    restarts: Count = 1
    tolerance: NonNegative = 3e-10
    labels: Literal["joint", "recovered"] = "recovered"

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=vanishing(self.smoothness, 1e-10),
            parametrization=Direct(center=0.5, noise=0.01),
            labels=Affine() if self.labels == "joint" else Known(),
            descent=GaussNewton(
                warm=self.warm, warm_iterations=self.iterations, stages=self.stages
            ),
            restarts=self.restarts,
            halving=self.restarts > 1,
            tolerance=self.tolerance,
            precision="double",
        )
