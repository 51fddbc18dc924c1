"""First-order matching of gradients or updates with a vanishing prior."""

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
    r"""Match gradients or updates with L-BFGS and a prior whose weight falls during the search.

    Use it on smooth networks, for one gradient, for local steps or for an aggregate. It needs only
    that the local training is known and differentiable. On tables, set `smoothness` to 0.

    .. math::

        \min_x \; \sum_l \frac{\|u_l(x, y) - u^*_l\|^2}{\|u^*_l\| \, \|u^*\|} + w \, p(x), \qquad
        p(x) = \frac{\|\Delta x\|^2 + \mathrm{distance}(x, [0, 1]^n)^2}{n}

    Here :math:`u_l` is the simulated and :math:`u^*_l` the observed update of parameter tensor
    :math:`l`. :math:`\Delta` is the Laplacian, in which color weighs more than brightness, and
    :math:`n` is the number of values. The weight :math:`w` falls geometrically from `smoothness` to
    `remains` times `smoothness`.

    Args:
        steps: Number of L-BFGS steps, at least 1. The default is ours, as all others.
        smoothness: Weight of the prior at the start, at least 0. At the start, the distance between
            the updates (the first term) is about 1.
        remains: Fraction, above 0, of the prior's weight that remains at the end. Set 0.1 if the
            simulation cannot match the update exactly.
        restarts: Number of independent starts, at least 1. The objective chooses among them.

    References:
        Ours. It has the prior of SecondOrder, for any local training.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.VanishingPrior(steps=20)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Count = 1000
    smoothness: NonNegative = 1.0
    remains: Positive = 1e-6
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        return GradientMatching(
            objective=with_vanishing_prior(self.smoothness, self.remains),
            parametrization=Direct(center=0.5, noise=0.01),
            labels=Known(),
            descent=LBFGS(steps=self.steps, line_search="strong_wolfe"),
            restarts=self.restarts,
        )


def with_vanishing_prior(smoothness: float, remains: float) -> Term:
    """Return the balanced distance, plus the prior unless `smoothness` is 0.

    The prior's weight falls from `smoothness` to `remains` times `smoothness`.
    """
    if smoothness == 0:
        return BalancedL2()
    weight = GeometricSchedule(smoothness, remains * smoothness)
    return BalancedL2() + weight * (InRange() + Smoothness())
