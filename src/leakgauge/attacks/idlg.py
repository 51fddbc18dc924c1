"""Improved Deep Leakage from Gradients. Zhao, Mopuri, Bilen: arXiv 2001.02610, 2020.

y = argmin_i  sum_j  g*_{W, ij}      (the last layer's weight; batch 1)
minimize over x   sum_l || dL(f(x), y) / dtheta_l - g*_l ||^2                   by L-BFGS
"""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import L2, LBFGS, GradientMatching, LastLayer


@dataclass(frozen=True, kw_only=True)
class IDLG(Recipe):
    """The label read from the last layer's gradient, then the input as in DLG. Batch 1."""

    steps: Count = 300
    lr: Positive = 1.0
    tolerance: NonNegative = 1e-9

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=L2(),
            labels=LastLayer(),
            descent=LBFGS(steps=20 * self.steps, lr=self.lr),
            tolerance=self.tolerance,
        )
