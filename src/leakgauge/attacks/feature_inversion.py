"""Feature inversion: from the input of a deep linear layer, read exactly, back to the image.

    minimize over x   mean_i || h(x_i) - h_i ||^2 / spread^2  +  smoothness || Laplacian x ||^2 / n  +  tv TV(x)
                      +  distance(x, [0, 1]^n)^2 / n  +  gradients (1 - cos(g(x, y), g*))

Kariyappa et al.: ICML 2023, section 5, for batches, with total variation; h_i is read from the linear layer's
gradient alone. Each image then depends on its own features, not on the others of the batch. With `gradients`
above 0 the whole update counts too. The smoothness prior, which knows colors, serves better than total
variation in our restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from leakgauge.analytic.hidden import ReadFeatures, reading
from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.attacks.softmax_unmixing import READING, UNLABELED, complete_labels, reporter
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import nothing_found
from leakgauge.inversion import (
    LBFGS,
    VARIATIONS,
    Cosine,
    FeatureMatch,
    FixedLabels,
    GradientMatching,
    InRange,
    Known,
    LastLayer,
    Smoothness,
    Spectral,
    Term,
    VariationName,
)
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.inversion.variables.labels import ReadyLabels


@dataclass(frozen=True, kw_only=True)
class FeatureInversion(BaseAttack):
    """For networks whose linear layer tells each example's features; the notes say how those were read.

    `rounds` as in CocktailParty. On tables, set smoothness = 0.
    """

    steps: Count = 500
    smoothness: NonNegative = 1e-4
    tv: NonNegative = 0.0
    variation: VariationName = "anisotropic"
    gradients: NonNegative = 0.0
    rounds: Annotated[int, Ge(0)] = 12

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        read = reading(observation, rounds=self.rounds)
        if isinstance(read, Inapplicable):
            return read
        reason = entangled(observation) or self.prior().inapplicable(observation)
        if reason is not None:
            return Inapplicable(reason)
        labels = plan_own_labels(observation)
        if isinstance(labels, Inapplicable):
            return labels
        # The term that asks for the features follows when they are read.
        descent = ready(self.matching(InRange(), torch.zeros(0, dtype=torch.long)), observation)
        if isinstance(descent, Inapplicable):
            return descent
        search = partial(self.search, observation, read, labels, descent)
        return Plan(evaluations=self.descent.bound, search=search)

    @property
    def descent(self) -> LBFGS:
        """Return the descent that lowers the objective."""
        return LBFGS(steps=self.steps, history=100, line_search="strong_wolfe")

    def matching(self, objective: Term, labels: Tensor) -> GradientMatching:
        """Return the search for images. labels: (B,), of the examples in the order of their features."""
        return GradientMatching(
            objective=objective,
            parametrization=Spectral(center=0.5, noise=0.1),
            labels=FixedLabels(labels),
            descent=self.descent,
        )

    def prior(self) -> Term:
        """Return the prior of the inputs."""
        prior: Term = InRange()
        if self.smoothness > 0:
            prior = prior + self.smoothness * Smoothness()
        if self.tv > 0:
            prior = prior + self.tv * VARIATIONS[self.variation]
        return prior

    def search(
        self,
        observation: Observation,
        read: ReadFeatures,
        planned: LabelPlan | ReadyLabels,
        descent: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Read the features and labels of each example, then look for images with those features.

        planned: the label of a batch of one, else labels for examples whose label does not come with the features.
        """
        seen = read(seeds.generator("features"), reporter(progress))
        if isinstance(seen, Inapplicable):
            return nothing_found(observation, Status.INAPPLICABLE, seen.reason)
        if isinstance(planned, LabelPlan):
            labels = complete_labels(seen.labels, lambda: planned, seeds)
        else:
            labels = planned.start(observation, seeds.generator("labels"))
        if labels is None:
            return nothing_found(observation, Status.INAPPLICABLE, UNLABELED)
        term = FeatureMatch.of(observation, seen.layer, seen.features, seen.error)
        objective = term + self.prior()
        if self.gradients > 0:
            objective = objective + self.gradients * Cosine()
        found = replace(descent, matching=self.matching(objective, labels)).with_labels(labels)
        known, source = torch.isfinite(seen.error), f"features: {seen.source}"

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, found=known, notes=(source, *found.notes))

        told = within(progress, READING, 1 - READING, finish=noted)
        return noted(found.search(seeds, told))


def plan_own_labels(observation: Observation) -> LabelPlan | ReadyLabels | Inapplicable:
    """Return the label of a batch of one, else how labels are recovered, or the reason why there are none."""
    labels = observation.knowledge.labels
    if observation.batch_size == 1:
        rule = LastLayer() if labels is None else Known()
        return rule.prepare(observation)
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        return Inapplicable(
            "features are told apart by class labels, and the targets granted are others"
        )
    return plan_labels(observation)
