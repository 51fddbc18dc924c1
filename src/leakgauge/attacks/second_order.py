"""Second-order gradient matching with a vanishing prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.vanishing_prior import with_vanishing_prior
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
    r"""Match gradients by least squares to the precision of float64, with L-BFGS and then Gauss-Newton steps.

    Use it on smooth networks, without ReLU, at small batches. On tables, set `smoothness` to 0.

    .. math::

        \min_{x, y} \; \sum_l \frac{\|g_l(x, y) - g^*_l\|^2}{\|g^*_l\| \, \|g^*\|} + w \, p(x), \qquad
        p(x) = \frac{\|\Delta x\|^2 + \mathrm{distance}(x, [0, 1]^n)^2}{n}

    Here :math:`g_l` is the simulated and :math:`g^*_l` the observed gradient of parameter tensor
    :math:`l`. :math:`\Delta` is the Laplacian, in which color weighs more than brightness, and
    :math:`n` is the number of values. The weight :math:`w` falls toward 0 during the search. At
    first the prior leads, while the gradients are still far apart. At the end the prior decides only
    what the update leaves open. The labels :math:`y` are variables only if `labels` is "joint".

    Args:
        warm: Number of stages of L-BFGS, at least 1. The default is ours, as all others.
        iterations: Largest number of iterations of each L-BFGS stage, at least 1.
        stages: Number of Gauss-Newton stages that follow, at least 1.
        smoothness: Weight of the prior at the start, at least 0. At the start, the distance between
            the gradients (the first term) is about 1.
        restarts: Number of independent starts, at least 1. With several, the worse half is dropped
            three times.
        tolerance: Value of the objective, at least 0, at which the search ends.
        labels: "recovered" takes granted labels or recovers them first. "joint" makes labels
            variables of the search.

    References:
        Ours. We know of no publication.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.SecondOrder(warm=1, iterations=20, stages=1)
        >>> found = attack(observation, seeds=lg.Seeds(0))
        >>> found.status
        <Status.CONVERGED: 'converged'>
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
            objective=with_vanishing_prior(self.smoothness, 1e-10),
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
