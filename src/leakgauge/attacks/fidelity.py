"""The base of GradInversion and GradViT: gradient matching with priors of fidelity and group consistency."""

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
    """Base of attacks that match gradients with image priors, and pull restarts toward their mean.

    Subclasses are frozen dataclasses. They override `weighted`, `priors` and defaults. All terms
    but the gradient's are means, so a weight has the same effect at any size of image and network.
    Labels that are not granted are recovered by GradInversion's rule. `GradInversion` describes the
    options.
    """

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
            return Inapplicable(
                f"public images of shape {shape}: expected {domain}, as in the domain"
            )
        plain = mean_network(observation)
        statistics = self.statistics(plain)
        if self.proxy is not None and statistics.inapplicable(plain):
            return Inapplicable(
                "the proxy has no BatchNorm layers: set public to images on which to measure its features"
            )
        terms = self.weighted(plain, statistics)
        if not terms:
            return Inapplicable("every term has weight 0, or does not apply to this model")
        if self.group == "registered" and image_grid(plain.domain) is None:
            return Inapplicable(
                f'registration needs images, not a {plain.domain.kind}: set group = "lazy"'
            )
        reading = None if granted(plain) else GradInversionRule().prepare(plain)
        if isinstance(reading, Inapplicable):
            return reading
        found = ready(self.composed(terms, Known()), plain)
        if isinstance(found, Inapplicable):
            return found
        return Plan(evaluations=found.matching.budget, search=partial(_search, found, reading))

    def terms(self, observation: Observation) -> list[Term]:
        """Return the weighted terms of the objective."""
        return self.weighted(observation, self.statistics(observation))

    def weighted(self, observation: Observation, statistics: FeatureStatistics) -> list[Term]:
        """Return the weighted terms of the objective. `statistics` is the BatchNorm term."""
        weighted = [
            (self.gradient, DISTANCES[self.distance]),
            *self.priors(observation, statistics),
        ]
        return [weight * term for weight, term in weighted if weight > 0]

    def priors(
        self, observation: Observation, statistics: FeatureStatistics
    ) -> list[tuple[float, Term]]:
        """Return the priors of fidelity and their weights. The BatchNorm term has weight 0 if it does not apply."""
        known = statistics.inapplicable(observation) is None
        return [
            (self.tv, VARIATIONS[self.variation]),
            (self.l2, Energy()),
            (self.batchnorm if known else 0.0, statistics),
        ]

    @property
    def parametrization(self) -> Direct:
        """The variables that the descent moves: pixels, in units of 0.25 of the range."""
        return Direct(center=0.5, spread=0.25, box=True)

    def statistics(self, observation: Observation) -> FeatureStatistics:
        """Return the BatchNorm term.

        It compares with the batch's own statistics if they are granted. Otherwise it compares with
        those of `public` images, or with the running statistics of the proxy or of the model.
        """
        if observation.knowledge.statistics is not None:
            return BatchStatistics.of(observation)
        if self.public is not None:
            network = observation.model if self.proxy is None else self.proxy
            return FeatureStatistics.measured(network, self.public, observation.domain)
        return BatchStatistics.prior(observation, self.proxy)

    def matching(self, observation: Observation, labels: Labels) -> GradientMatching:
        """Return the gradient matching that this attack runs, with a rule for labels."""
        return self.composed(self.terms(observation), labels)

    def composed(self, terms: list[Term], labels: Labels) -> GradientMatching:
        """Return the gradient matching with these weighted terms and a rule for labels."""
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
    """Recover labels with `reading`, then match. `reading` is None if labels are granted."""
    if reading is not None:
        matching = matching.with_labels(reading(seeds.child("labels")).labels)
    return matching.search(seeds, progress)
