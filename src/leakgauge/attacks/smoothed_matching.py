"""Gradient matching on a smoothed copy of a ReLU network."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.inversion import (
    LBFGS,
    VARIATIONS,
    Cosine,
    GradientMatching,
    InRange,
    Known,
    Logarithm,
    Spectral,
    Term,
    VariationName,
)


@dataclass(frozen=True, kw_only=True)
class SmoothedMatching(Recipe):
    r"""Match gradients with L-BFGS on a smoothed copy of a ReLU network.

    Use it on deep ReLU networks at batch size 1. On tables, set `tv` to 0. Labels are granted, or
    recovered first.

    .. math::

        &\min_x \; \log\Big(1 + \frac{D(x)}{10^{-7}}\Big) + \lambda \, \mathrm{TV}(x)
        + \frac{5}{n} \, \mathrm{distance}(x, [0, 1]^n)^2 \\
        &D(x) = 1 - \frac{\langle g(x, y), g^* \rangle}{\|g(x, y)\| \, \|g^*\|}

    Here :math:`g(x, y)` is the simulated gradient, :math:`g^*` the observed one, :math:`\lambda` is
    `tv`, and :math:`n` is the number of values. The simulation replaces each ReLU by
    :math:`s \, \mathrm{softplus}(z / s)`, where :math:`s` is `smoothing`. L-BFGS needs curvature,
    which only a smoothed ReLU has. The logarithm makes the effect of the priors fall with
    :math:`D`.

    The variables are cosine coefficients of the image, each scaled as in natural images.

    Args:
        steps: Number of L-BFGS steps, at least 1. The default is ours, as all others.
        smoothing: Width of the softplus, at least 0, in units of the inputs of a ReLU, which are
            about 1. 0 leaves the network unchanged.
        tv: Weight of total variation, at least 0, relative to D.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        restarts: Number of independent starts, at least 1. With several, the worse half is dropped
            three times.

    References:
        Ours. We know of no publication of the whole method.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.SmoothedMatching(steps=20)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Count = 400
    smoothing: NonNegative = 0.2
    tv: NonNegative = 2.0
    variation: VariationName = "anisotropic"
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        objective: Term = Logarithm(Cosine()) + 5.0 * InRange()
        if self.tv > 0:
            objective = objective + self.tv * VARIATIONS[self.variation]
        return GradientMatching(
            objective=objective,
            parametrization=Spectral(center=0.5, noise=0.3),
            labels=Known(),
            descent=LBFGS(steps=self.steps, history=100, line_search="strong_wolfe"),
            restarts=self.restarts,
            halving=self.restarts > 1,
            smoothing=self.smoothing,
        )
