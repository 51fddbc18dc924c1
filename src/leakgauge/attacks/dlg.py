"""Deep Leakage from Gradients. Zhu, Liu, Han: NeurIPS 2019, algorithm 1.

minimize over x, y   sum_l || dL(f(x), softmax(y)) / dtheta_l - g*_l ||^2       by L-BFGS
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import L2, LBFGS, GradientMatching, Joint


@dataclass(frozen=True, kw_only=True)
class DLG(Recipe):
    """Inputs and soft labels optimized jointly by plain L-BFGS from one random start."""

    steps: Count = 300
    lr: Positive = 1.0
    tolerance: NonNegative = 1e-9

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=L2(),
            labels=Joint(),
            descent=LBFGS(steps=20 * self.steps, lr=self.lr),
            tolerance=self.tolerance,
        )
