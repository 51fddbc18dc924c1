"""Deep Leakage from Gradients."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import L2, LBFGS, GradientMatching, Joint


@dataclass(frozen=True, kw_only=True)
class DLG(Recipe):
    r"""Match gradients by squared distance: L-BFGS optimizes inputs and soft labels together.

    Use it to compare with the paper. It needs a smooth network and a small batch. `BalancedDLG` has
    our settings, which let the search finish.

    .. math::

        \min_{x, t} \; \sum_l \|g_l(x, \mathrm{softmax}(t)) - g^*_l\|^2

    Here :math:`g_l` is the simulated gradient of parameter tensor l, and :math:`g^*_l` the observed
    one. The variables are the inputs :math:`x` and the logits :math:`t` of their labels. Both start
    from N(0, 1). There is one start and no line search.

    Args:
        steps: Number of steps, at least 1, of 20 iterations of L-BFGS each. The default is the
            paper's.
        lr: Step size of L-BFGS, above 0. The default is the paper's.
        tolerance: Objective at which the search stops, at least 0. It is a squared gradient.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, algorithm 1. arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> attack = lg.attacks.DLG(steps=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

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
