"""Improved Deep Leakage from Gradients."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import L2, LBFGS, GradientMatching, LastLayer


@dataclass(frozen=True, kw_only=True)
class IDLG(Recipe):
    r"""Recover the label of one example from the last layer's gradient, then match gradients as DLG does.

    Use it for batch 1 and a smooth network.

    .. math::

        y = \operatorname{argmin}_i \sum_j g^*_{W, ij}, \qquad \min_x \; \sum_l \|g_l(x, y) - g^*_l\|^2

    Here :math:`g^*_W` is the observed gradient of the last layer's weight, with a row i for each
    class. The simulated gradient of parameter tensor l is :math:`g_l`, and the observed one
    :math:`g^*_l`.

    The paper's rule for the label, above, needs cross-entropy. LeakGauge uses a more general rule:
    it takes the label that explains the last layer's gradient best.

    Args:
        steps: Number of steps, at least 1, of 20 iterations of L-BFGS each. The default is the
            paper's.
        lr: Step size of L-BFGS, above 0. The default is the paper's.
        tolerance: Objective at which the search stops, at least 0. It is a squared gradient.

    References:
        Zhao, Mopuri, Bilen. iDLG: Improved Deep Leakage from Gradients. 2020. arXiv:2001.02610.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.IDLG(steps=5)
        >>> attack(observation, seeds=lg.Seeds(0)).targets
        tensor([0])
    """

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
