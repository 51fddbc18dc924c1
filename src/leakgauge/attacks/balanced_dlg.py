"""Deep Leakage from Gradients with our settings, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.inversion import LBFGS, BalancedL2, Direct, GradientMatching, Joint, Known

SCALE = 1e6
"""Factor of the objective. L-BFGS drops curvature pairs below 1e-10, an absolute number, so it is scaled up."""


@dataclass(frozen=True, kw_only=True)
class BalancedDLG(Recipe):
    r"""Match gradients as DLG does, with our settings: layer weights, a line search, a long memory and float64.

    Use it on smooth networks and small batches. It ends at a match where the settings of `DLG` stop
    early. ReLU networks lack the curvature that L-BFGS needs.

    .. math::

        \min_{x, t} \; \sum_l \frac{\|g_l(x, \mathrm{softmax}(t)) - g^*_l\|^2}{\|g^*_l\| \, \|g^*\|}

    Here :math:`g_l` is the simulated gradient of parameter tensor l, and :math:`g^*_l` the observed
    one. The variables are the inputs :math:`x` and the logits :math:`t` of their labels.

    The idea and the joint labels are the paper's. The settings are ours: the weight of each layer,
    a strong Wolfe line search, and a memory of 300 curvature pairs. The adversary's copy of the
    model is in float64. Inputs start near the middle of the public range. All classes start with
    the same probability.

    Args:
        steps: Number of steps, at least 1, of 25 iterations of L-BFGS each. The default is ours.
        restarts: Number of independent starts, at least 1. The objective chooses among them.
        tolerance: Objective at which the search stops, at least 0. It has no unit. The default is
            ours.
        labels: "joint" optimizes labels beside the inputs. "recovered" uses granted labels, or
            recovers them first.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019. arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> attack = lg.attacks.BalancedDLG(steps=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
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
