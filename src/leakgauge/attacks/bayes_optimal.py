"""The most likely batch under known noise. Balunović, Dimitrov, Staab, Vechev: Bayesian Framework for Gradient Leakage,
ICLR 2022, section 4.

    maximize over x   log p(g* | x) + log p(x)
    log p(g* | x) = - ||g(x, y) - g*||^2 / (2 s^2)           Gaussian noise of standard deviation s
                  = - sqrt(2) ||g(x, y) - g*||_1 / s         Laplacian noise
                  = sum log(1 - |g(x, y) - g*| / s)          rounding at random to multiples of s (ours)
    log p(x)      = - sum |x_i - x_j| / b                    over neighboring pixels i, j

by Adam on the sign of the gradient, or by L-BFGS. Both terms are in nats: no weight between them is left to choose.
b is the mean difference of neighbors in photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.attacks.recipe import plan_matching
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Rounding,
    effect,
    image_grid,
)
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import (
    L1,
    L2,
    LBFGS,
    Direct,
    GradientMatching,
    InRange,
    Known,
    RandomRounding,
    SignedAdam,
    Smoothness,
    Spectral,
    Term,
    TotalVariation,
)
from leakgauge.inversion.descents.descent import Descent

OUTSIDE = 100.0
"""Nats a value and squared unit beyond the public range, for a descent without a box."""


@dataclass(frozen=True, kw_only=True)
class BayesOptimal(BaseAttack):
    """What a known defense's noise is, decides the distance; its strength, the weight of the prior.

    `neighbors`: b in units of the range, 0.04 of photographs at 32 px. `prior` "smoothness", ours, is Gaussian instead:
    log p(x) = - n S(x) / (2 r), S as in `Smoothness`, of n values; `roughness` r, its mean over photographs at 32 px.
    `descent` "signed_adam" for any network, "lbfgs" for smooth ones, or ones that `smoothing` makes so, as in
    `smoothed_matching`.
    """

    steps: Count = 4000
    lr: Positive = 0.1
    neighbors: Positive = 0.04
    prior: Literal["variation", "smoothness"] = "variation"
    roughness: Positive = 0.15
    descent: Literal["signed_adam", "lbfgs"] = "signed_adam"
    smoothing: NonNegative = 0.0
    restarts: Count = 1

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.noise is None and rounding(observation) is None:
            return Inapplicable(
                "the known defense adds no noise, nor rounds at random: nothing says which distance is likely"
            )
        if image_grid(observation.domain) is None:
            return Inapplicable(f"its prior is of images, not of a {observation.domain.kind}")
        return plan_matching(self.matching(observation), observation)

    def objective(self, observation: Observation) -> Term:
        """Minus the log-posterior, in nats a value of the batch."""
        channels, height, width = observation.domain.shape
        values = observation.batch_size * channels * height * width
        # TotalVariation is two means, over vertical and over horizontal neighbors.
        prior = (1 / self.neighbors) * TotalVariation()
        if self.prior == "smoothness":
            prior = (0.5 / self.roughness) * Smoothness()
        rounded = rounding(observation)
        if rounded is not None:
            return (1 / values) * RandomRounding(rounded.steps(observation.update)) + prior
        noise = observation.noise
        if noise is None:
            return prior
        gaussian = noise.law == "gaussian"
        likelihood: Term = L2() if gaussian else L1()
        scale = 1 / (2 * noise.std**2) if gaussian else 2**0.5 / noise.std
        return (scale / values) * likelihood + prior

    def matching(self, observation: Observation) -> GradientMatching:
        """The composition that this attack stands for."""
        objective = self.objective(observation)
        parametrization: Direct = Direct(center=0.5, spread=0.25, box=True)
        descent: Descent = SignedAdam(steps=self.steps, lr=self.lr)
        if self.descent == "lbfgs":
            objective = objective + OUTSIDE * InRange()
            parametrization = Spectral(center=0.5, noise=0.3)
            descent = LBFGS(steps=self.steps, history=100, line_search="strong_wolfe")
        return GradientMatching(
            objective=objective,
            parametrization=parametrization,
            labels=Known(),
            descent=descent,
            restarts=self.restarts,
            smoothing=self.smoothing,
        )


def rounding(observation: Observation) -> Rounding | None:
    """The rounding of a known defense, where no noise is beside it, and no mean of clients has blurred it."""
    alone = observation.noise is None and observation.clients == 1
    return effect(observation, Rounding) if alone else None
