"""Gradient matching over a deep image prior.

    minimize over w_1 ... w_B   1 - <g(x, y), g*> / (||g(x, y)|| ||g*||)      x_i = sigmoid(G_w_i(z))

Ulyanov, Vedaldi, Lempitsky: Deep Image Prior, CVPR 2018, whose untrained generator Zhang et al.: Generative Gradient
Inversion via Over-Parameterized Networks in Federated Learning, ICCV 2023, take for gradient inversion: it asks for no
public data. Theirs is one wide network for the batch; here each example has a small one of its own.
"""

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
"""Steps in which Adam's rate rises: the first ones know nothing of the slope's size."""


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior(BaseAttack):
    """Adam on the weights of an untrained convolutional generator, one an example. Images only.

    `width` channels at each of `levels` + 1 resolutions, as in DeepPrior. Stopping early is part of the prior:
    many more `steps` fit the noise of an update, too. The rate falls as a cosine.
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
        """The composition that this attack stands for."""
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
