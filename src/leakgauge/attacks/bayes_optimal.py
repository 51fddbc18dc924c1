"""The most likely batch under the known noise of a defense."""

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
"""Weight of the squared distance to the public range, in nats per value. A descent with a box does not need it."""


@dataclass(frozen=True, kw_only=True)
class BayesOptimal(BaseAttack):
    r"""Search for the most likely images under the known noise or random rounding of a defense.

    Use it on images if the threat model grants a defense that adds noise or rounds at random. The
    kind of noise selects the distance between gradients. Its strength sets the weight of the prior.

    .. math::

        \max_x \; \log p(g^* \mid x) + \log p(x),
        \qquad \log p(x) = -\frac{1}{b} \sum_{i \sim j} |x_i - x_j|

    .. math::

        \log p(g^* \mid x) = \begin{cases}
        -\|g(x, y) - g^*\|^2 / (2 s^2) & \text{Gaussian noise} \\
        -\sqrt{2} \, \|g(x, y) - g^*\|_1 / s & \text{Laplacian noise} \\
        \sum_k \log(1 - |g_k(x, y) - g^*_k| / s_k) & \text{random rounding (ours)}
        \end{cases}

    Here :math:`g(x, y)` is the simulated gradient, and :math:`g^*` the observed one. The noise has
    standard deviation :math:`s`. Rounding of entry k has step :math:`s_k`. The prior sums over
    neighboring pixels i, j, and :math:`b` is their mean difference in photographs. All terms are in
    nats, so there is no weight between them to choose.

    Args:
        steps: Number of steps, at least 1. The default is ours.
        lr: Step size of Adam, above 0, in units of the start's standard deviation, which is 0.25 of
            the range. It is for "signed_adam" alone.
        neighbors: The mean difference b of neighboring pixels, above 0, as a fraction of the range.
            The default is that of photographs at 32 pixels.
        prior: "variation" is the prior above. "smoothness" is ours and Gaussian: log p(x) = -n S(x)
            / (2 r) for n values and the mean squared Laplacian S(x).
        roughness: The mean r of S(x), above 0, for `prior` "smoothness". The default is that of
            photographs at 32 pixels.
        descent: "signed_adam" is for any network. "lbfgs" is for smooth networks, or with
            `smoothing` for ReLU networks.
        smoothing: Width of the bend of smoothed ReLUs, at least 0, in units of their input. 0 keeps
            the network. See `SmoothedMatching`.
        restarts: Number of independent starts, at least 1. The objective chooses among them.

    References:
        Balunović, Dimitrov, Staab, Vechev. Bayesian Framework for Gradient Leakage. ICLR 2022,
        section 4. arXiv:2111.04706.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.GaussianNoise(std=1e-3)
        >>> observation = lg.examples.observation(batch_size=1, defense=defense)
        >>> attack = lg.attacks.BayesOptimal(steps=20)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
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
        if observation.noise is None and rounding_of(observation) is None:
            return Inapplicable(
                "the known defense adds no noise and does not round at random: the attack needs one of them"
            )
        if image_grid(observation.domain) is None:
            return Inapplicable(f"its prior needs images, not a {observation.domain.kind}")
        return plan_matching(self.matching(observation), observation)

    def objective(self, observation: Observation) -> Term:
        """Return the negative logarithm of the posterior, in nats per value of the batch."""
        channels, height, width = observation.domain.shape
        values = observation.batch_size * channels * height * width
        # TotalVariation is a sum of two means, over vertical and horizontal neighbors. So it is a
        # prior per value.
        prior = (1 / self.neighbors) * TotalVariation()
        if self.prior == "smoothness":
            prior = (0.5 / self.roughness) * Smoothness()
        rounded = rounding_of(observation)
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
        """Return the gradient matching that this attack runs."""
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


def rounding_of(observation: Observation) -> Rounding | None:
    """Return the random rounding of the known defense, or None if it has none.

    It is None, too, if the defense adds noise or if the update is a mean over clients: both blur
    the rounding.
    """
    alone = observation.noise is None and observation.clients == 1
    return effect(observation, Rounding) if alone else None
