"""Gradient matching over a deep image prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from leakgauge.attacks.recipe import plan_matching
from leakgauge.core import BaseAttack, Inapplicable, Observation, Plan, image_grid
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import (
    VARIATIONS,
    BalancedL2,
    Cosine,
    DeepPrior,
    GradientMatching,
    Known,
    LangevinAdam,
    Term,
    VariationName,
)

DISTANCES: dict[str, Term] = {"cosine": Cosine(), "balanced": BalancedL2()}
WARMUP = 20
"""Number of steps in which Adam's rate rises. In the first steps, Adam does not know the gradient's size yet."""


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior(BaseAttack):
    r"""Match gradients over the weights of untrained convolutional generators, one for each image.

    Use it on images if no public data are at hand. The generator itself is the prior, because it
    fits images sooner than noise.

    .. math::

        \min_{w_1, \dots, w_B} \; d(g(x, y), g^*) + \lambda \, \mathrm{TV}(x),
        \qquad x_i = \mathrm{sigmoid}(G_{w_i}(z))

    Here :math:`d` is the distance between the simulated gradient :math:`g(x, y)` and the observed
    :math:`g^*`. Generator :math:`G_{w_i}` with weights :math:`w_i` makes image i from fixed noise
    :math:`z`. The weight :math:`\lambda` is `tv`. Adam moves the weights, and its rate falls as a
    cosine.

    The paper has one wide network for the batch. Here each example has its own small network.

    Args:
        steps: Number of steps, at least 1. Stopping early is part of the prior: with many more
            steps, the generators also fit the noise of an update. The default is ours.
        lr: Step size of Adam, above 0. The default is ours.
        width: Number of channels at each resolution, at least 1. The default is ours.
        levels: Largest number of times that the resolution doubles, at least 0. Small images have
            fewer. The default is ours.
        distance: "cosine" is the cosine distance. "balanced" is the squared distance with a weight
            for each layer.
        tv: Weight of total variation, at least 0.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        restarts: Number of independent starts, at least 1. The objective chooses among them.

    References:
        Zhang, Zhang, Sotthiwat, Xu, Liu, Zhen, Liu. Generative Gradient Inversion via
        Over-Parameterized Networks in Federated Learning. ICCV 2023. The prior: Ulyanov, Vedaldi,
        Lempitsky. Deep Image Prior. CVPR 2018. arXiv:1711.10925.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.DeepImagePrior(steps=20, width=4, levels=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Count = 1000
    lr: Positive = 1e-2
    width: Count = 32
    levels: Annotated[int, Ge(0)] = 3
    distance: Literal["cosine", "balanced"] = "cosine"
    tv: NonNegative = 0.0
    variation: VariationName = "anisotropic"
    restarts: Count = 1

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if image_grid(observation.domain) is None:
            return Inapplicable(
                f"the deep image prior generates images, not a {observation.domain.kind}"
            )
        return plan_matching(self.matching(observation), observation)

    def matching(self, observation: Observation) -> GradientMatching:
        """Return the gradient matching that this attack runs."""
        channels, height, width = observation.domain.shape
        objective = DISTANCES[self.distance]
        if self.tv > 0:
            objective = objective + self.tv * VARIATIONS[self.variation]
        return GradientMatching(
            objective=objective,
            parametrization=DeepPrior(
                image=(channels, height, width), width=self.width, levels=self.levels
            ),
            labels=Known(),
            descent=LangevinAdam(
                steps=self.steps, lr=self.lr, warmup=min(WARMUP, self.steps // 2), noise=0.0
            ),
            restarts=self.restarts,
        )
