"""GradInversion. Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov: See through Gradients, CVPR 2021.

    minimize over x_1 ... x_S   gradient d(g(x_s, y), g*) + fidelity(x_s) + consistency ||x_s - E(x_1 ... x_S)||^2
    d(g, g*)    = sum_l ||g_l - g*_l||
    fidelity(x) = tv TV(x) + l2 ||x||^2 + batchnorm BN(x)
    BN(x)       = distance of means and deviations at BatchNorm layers from those of the data

by Adam with warm-up, cosine decay and Langevin noise, from S seeds; E is their mean, taken anew as they go, or
their mean after each image was carried onto it. The labels, where not granted, are the classes whose rows of the last
weight's gradient have the least minimum. Steps, rate, noise, seeds and weights are the paper's, for ResNet-50 at
224 px; TV, l2, BN and consistency are means here, so that a weight is the same at any size of image and network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from leakgauge.analytic.label_recovery import GradInversionRule
from leakgauge.attacks.labels import granted
from leakgauge.core import Configured, Observation, Progress, Reconstruction, Seeds, silent
from leakgauge.core.ranges import Count, NonNegative, Positive, Share
from leakgauge.federated.dropout import mean_network
from leakgauge.inversion import (
    VARIATIONS,
    BalancedL2,
    BatchStatistics,
    Consensus,
    Cosine,
    Direct,
    Energy,
    FeatureStatistics,
    GradientMatching,
    Known,
    LangevinAdam,
    LayerNorms,
    Read,
    Term,
    VariationName,
)
from leakgauge.inversion.consensus import Mean, lazy, registered
from leakgauge.inversion.labels import Labels

DISTANCES: dict[str, Term] = {
    "layers": LayerNorms(),
    "balanced": BalancedL2(),
    "cosine": Cosine(),
}
MEANS: dict[str, Mean] = {"lazy": lazy, "registered": registered}


@dataclass(frozen=True, kw_only=True, repr=False)
class GradInversion(Configured):
    """Gradient, fidelity and group terms, each with its weight; 0 leaves it out.

    `distance` of gradients: the paper's is absolute, the others are relative to the observed one.
    `batchnorm` compares with the batch's own statistics where they are granted, else with the running
    ones of `proxy`, a network trained on data like the private, else with the model's own. Of `public`
    images (N, *shape) that the adversary owns, in the domain's units, it compares what their features are at
    the proxy, or at the model, which then need no BatchNorm. `group` holds the trials together from the share
    `start` of the steps on, `every` so many steps anew.
    """

    steps: Count = 20_000
    lr: Positive = 0.1
    warmup: Count = 50
    noise: NonNegative = 0.2
    trials: Count = 8
    distance: Literal["layers", "balanced", "cosine"] = "layers"
    gradient: NonNegative = 1e-3
    tv: NonNegative = 1e-4
    variation: VariationName = "anisotropic"
    l2: NonNegative = 1e-6
    batchnorm: NonNegative = 0.1
    proxy: nn.Module | None = None
    public: Tensor | None = field(default=None, compare=False)
    group: Literal["none", "lazy", "registered"] = "registered"
    consistency: NonNegative = 0.01
    start: Share = 0.25
    every: Count = 100

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def inapplicable(self, observation: Observation) -> str | None:
        if self.public is not None and self.public.shape[1:] != observation.domain.shape:
            return f"public images of shape {tuple(self.public.shape[1:])} for {observation.domain.shape}"
        if self.proxy is not None and self.statistics(observation).inapplicable(observation):
            return "the proxy has no BatchNorm layers: give public images to measure it on"
        if not self.terms(observation):
            return "every term has weight 0, or means nothing on this model"
        if self.group == "registered" and observation.domain.kind != "image":
            kind = observation.domain.kind
            return f'registration is of images, not of a {kind}: set group = "lazy"'
        if not granted(observation):
            reason = GradInversionRule().inapplicable(observation)
            if reason is not None:
                return reason
        return self.matching(observation, Known()).inapplicable(observation)

    def evaluations(self, observation: Observation) -> int:
        return self.matching(observation, Known()).evaluations(observation)

    def terms(self, observation: Observation) -> list[Term]:
        """What is minimized, weighted; the BatchNorm term where the network has such layers."""
        statistics = self.statistics(observation)
        known = statistics.inapplicable(observation) is None
        weighted: list[tuple[float, Term]] = [
            (self.gradient, DISTANCES[self.distance]),
            (self.tv, VARIATIONS[self.variation]),
            (self.l2, Energy()),
            (self.batchnorm if known else 0.0, statistics),
        ]
        return [weight * term for weight, term in weighted if weight > 0]

    def statistics(self, observation: Observation) -> FeatureStatistics:
        """The BatchNorm term: exact where the threat model grants that, else the proxy's, else the model's."""
        if observation.knowledge.statistics is not None:
            return BatchStatistics.of(observation)
        if self.public is not None:
            network = observation.model if self.proxy is None else self.proxy
            return FeatureStatistics.measured(network, self.public, observation.domain)
        return BatchStatistics.prior(observation, self.proxy)

    def matching(self, observation: Observation, labels: Labels) -> GradientMatching:
        """The composition that this recipe stands for."""
        first, *others = self.terms(observation)
        objective = first
        for term in others:
            objective = objective + term
        consensus = None
        if self.group != "none" and self.consistency > 0:
            consensus = Consensus(
                weight=self.consistency, mean=MEANS[self.group], start=self.start, every=self.every
            )
        return GradientMatching(
            objective=objective,
            parametrization=Direct(center=0.5, spread=0.25, box=True),
            labels=labels,
            descent=LangevinAdam(
                steps=self.steps, lr=self.lr, warmup=self.warmup, noise=self.noise
            ),
            trials=self.trials,
            statistics=0.0,
            group=consensus,
        )

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        observation.require(self)
        seen = mean_network(observation)
        labels: Labels = Known()
        if not granted(seen):
            found = GradInversionRule()(seen, seeds=seeds.child("labels"))
            labels = Read(found.labels)
        return self.matching(seen, labels)(seen, seeds=seeds, progress=progress)
