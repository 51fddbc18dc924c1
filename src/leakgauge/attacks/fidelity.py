"""What GradInversion and GradViT share: gradients matched under priors of fidelity, the restarts held together.

    minimize over x_1 ... x_S   gradient d(g(x_s, y), g*) + fidelity(x_s) + consistency ||x_s - E(x_1 ... x_S)||^2
    d(g, g*)    = sum_l ||g_l - g*_l||
    fidelity(x) = tv TV(x) + l2 ||x||^2 + batchnorm BN(x)
    BN(x)       = distance of means and deviations at BatchNorm layers from those of the data

TV, l2, BN and consistency are means here, so that a weight is the same at any size of image and network. The labels,
where not granted, are read by GradInversion's rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from typing import Literal

from torch import Tensor, nn

from leakgauge.analytic.label_recovery import GradInversionRule, Reading
from leakgauge.attacks.labels import granted
from leakgauge.core import (
    BaseAttack,
    Configured,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    image_grid,
)
from leakgauge.core.ranges import Count, Fraction, NonNegative, Positive
from leakgauge.federated.layers.dropout import mean_network
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
    Logarithm,
    Term,
    VariationName,
)
from leakgauge.inversion.search.consensus import Mean, lazy, registered
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.inversion.variables.labels import Labels

Distance = Literal["layers", "balanced", "cosine", "relative"]
DISTANCES: dict[Distance, Term] = {
    "layers": LayerNorms(),
    "balanced": BalancedL2(),
    "cosine": Cosine(),
    "relative": Logarithm(Cosine()),
}
MEANS: dict[str, Mean] = {"lazy": lazy, "registered": registered}


@dataclass(frozen=True, kw_only=True, repr=False)
class FidelityMatching(Configured, BaseAttack):
    """An Attack of these terms. Recipes are frozen dataclasses that override `weighted`, `priors` and defaults."""

    steps: Count = 20_000
    lr: Positive = 0.1
    warmup: Count = 50
    noise: NonNegative = 0.2
    restarts: Count = 8
    distance: Distance = "layers"
    gradient: NonNegative = 1e-3
    tv: NonNegative = 1e-4
    variation: VariationName = "anisotropic"
    l2: NonNegative = 1e-6
    batchnorm: NonNegative = 0.1
    proxy: nn.Module | None = None
    public: Tensor | None = field(default=None, compare=False)
    group: Literal["none", "lazy", "registered"] = "registered"
    consistency: NonNegative = 0.01
    start: Fraction = 0.25
    every: Count = 100

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if self.public is not None and self.public.shape[1:] != observation.domain.shape:
            shape, domain = tuple(self.public.shape[1:]), observation.domain.shape
            return Inapplicable(f"public images of shape {shape} for {domain}")
        seen = mean_network(observation)
        statistics = self.statistics(seen)
        if self.proxy is not None and statistics.inapplicable(seen):
            return Inapplicable(
                "the proxy has no BatchNorm layers: give public images to measure it on"
            )
        terms = self.weighted(seen, statistics)
        if not terms:
            return Inapplicable("every term has weight 0, or means nothing on this model")
        if self.group == "registered" and image_grid(seen.domain) is None:
            return Inapplicable(
                f'registration is of images, not of a {seen.domain.kind}: set group = "lazy"'
            )
        reading = None if granted(seen) else GradInversionRule().prepare(seen)
        if isinstance(reading, Inapplicable):
            return reading
        found = ready(self.composed(terms, Known()), seen)
        if isinstance(found, Inapplicable):
            return found
        return Plan(evaluations=found.matching.budget, search=partial(_search, found, reading))

    def terms(self, observation: Observation) -> list[Term]:
        """Return the weighted terms of the objective."""
        return self.weighted(observation, self.statistics(observation))

    def weighted(self, observation: Observation, statistics: FeatureStatistics) -> list[Term]:
        """Return the weighted terms of the objective with these statistics for the BatchNorm term."""
        weighted = [
            (self.gradient, DISTANCES[self.distance]),
            *self.priors(observation, statistics),
        ]
        return [weight * term for weight, term in weighted if weight > 0]

    def priors(
        self, observation: Observation, statistics: FeatureStatistics
    ) -> list[tuple[float, Term]]:
        """Return terms of fidelity and their weights. The BatchNorm term weighs 0 if the network has no such layers."""
        known = statistics.inapplicable(observation) is None
        return [
            (self.tv, VARIATIONS[self.variation]),
            (self.l2, Energy()),
            (self.batchnorm if known else 0.0, statistics),
        ]

    @property
    def parametrization(self) -> Direct:
        """What the descent moves: pixels, in units of their spread."""
        return Direct(center=0.5, spread=0.25, box=True)

    def statistics(self, observation: Observation) -> FeatureStatistics:
        """The BatchNorm term: exact where the threat model grants that, else the proxy's, else the model's."""
        if observation.knowledge.statistics is not None:
            return BatchStatistics.of(observation)
        if self.public is not None:
            network = observation.model if self.proxy is None else self.proxy
            return FeatureStatistics.measured(network, self.public, observation.domain)
        return BatchStatistics.prior(observation, self.proxy)

    def matching(self, observation: Observation, labels: Labels) -> GradientMatching:
        """Return the composition that this recipe stands for."""
        return self.composed(self.terms(observation), labels)

    def composed(self, terms: list[Term], labels: Labels) -> GradientMatching:
        """Return the composition of these weighted terms."""
        consensus = None
        if self.group != "none" and self.consistency > 0:
            consensus = Consensus(
                weight=self.consistency, mean=MEANS[self.group], start=self.start, every=self.every
            )
        return GradientMatching(
            objective=reduce(add, terms),
            parametrization=self.parametrization,
            labels=labels,
            descent=LangevinAdam(
                steps=self.steps, lr=self.lr, warmup=self.warmup, noise=self.noise
            ),
            restarts=self.restarts,
            statistics=0.0,
            group=consensus,
        )


def _search(
    matching: Ready, reading: Reading | None, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Read labels, then match. reading: None if labels are granted."""
    if reading is not None:
        matching = matching.with_labels(reading(seeds.child("labels")).labels)
    return matching.search(seeds, progress)
