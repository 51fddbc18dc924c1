"""Second-order matching led by the features of each example, which the last layer's gradient alone tells.

    minimize over x   distance(g(x, y), g*)  +  w p(x)  +  v mean_i || h(x_i) - h_i ||^2 / spread^2

h_i by softmax unmixing, exactly, whatever the labels, and with each the label of its own example. So two
examples of one class do not end as their blend. Both weights fall. Ours; we know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.last_layer import HeadGradient, readable, unmixed
from leakgauge.analytic.softmax_unmixing import Unmixed
from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Moment,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.core.verdicts import nothing_found
from leakgauge.inversion import FeatureMatch, FixedLabels, GeometricSchedule
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.search.engine import Ready, ready

UNLABELED = "not every label can be read, nor is it granted"
"""Why a search ends that needs the label of each example."""
READING = 0.1
"""Fraction of an attack that is told for reading features. Descents take most of the time."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxUnmixing(BaseAttack):
    """For batches, of equal labels too, smaller than the number of classes; smooth networks.

    `weight` is that of the features at the start, against an objective of about 1. The rest as in
    SecondOrder. Labels are read with the features; granted ones help.
    """

    weight: Positive = 1.0
    smoothness: NonNegative = 1.0
    warm: Count = 7
    iterations: Count = 300
    stages: Count = 6

    @property
    def descent(self) -> SecondOrder:
        """Return the search that runs once the features are read."""
        return SecondOrder(
            smoothness=self.smoothness,
            warm=self.warm,
            iterations=self.iterations,
            stages=self.stages,
        )

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        head = readable(observation)
        if isinstance(head, Inapplicable):
            return head
        reason = entangled(observation)
        if reason is not None:
            return Inapplicable(reason)
        matching = replace(
            self.descent.matching(), labels=FixedLabels(torch.zeros(0, dtype=torch.long))
        )
        descent = ready(matching, observation)
        if isinstance(descent, Inapplicable):
            return descent
        search = partial(self.search, observation, head, descent)
        return Plan(evaluations=matching.budget, search=search)

    def search(
        self,
        observation: Observation,
        head: HeadGradient,
        descent: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return what matching finds with the features and labels that the last layer's gradient tells."""
        tell = telling(progress)
        seen = unmixed(observation, head, seeds.generator("unmixing"), tell=tell)
        labels = completed(seen.labels, partial(plan_labels, observation), seeds)
        if labels is None:
            return nothing_found(observation, Status.INAPPLICABLE, UNLABELED)
        error = torch.where(seen.found, seen.error, torch.inf)
        term = FeatureMatch.of(observation, head.name, seen.features, error, pooled=True)
        features = GeometricSchedule(self.weight, 1e-4 * self.weight) * term
        led = descent.with_labels(labels).with_terms(features)

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, notes=(said(seen), *found.notes))

        told = within(progress, READING, 1 - READING, finish=noted)
        return noted(led.search(seeds, told))


def telling(progress: Progress) -> Callable[[float], None]:
    """Return what tells the moments of reading features, from the fraction of it that is done."""
    return lambda fraction: progress(Moment(READING * fraction))


def completed(
    labels: Tensor, plan: Callable[[], LabelPlan | Inapplicable], seeds: Seeds
) -> Tensor | None:
    """Return labels (B,) with those unknown (-1) taken from granted or recovered counts, or None without any.

    plan: returns how the counts are recovered. It is called only if a label is unknown.
    """
    unknown = labels < 0
    if not bool(unknown.any()):
        return labels
    others = plan()
    if isinstance(others, Inapplicable):
        return None
    left = others.read(seeds)[0].tolist()
    for label in labels[~unknown].tolist():
        # An estimate may miss a label that was read: then another makes room.
        left.remove(label if label in left else left[-1])
    labels = labels.clone()
    labels[unknown] = torch.tensor(left)
    return labels


def said(seen: Unmixed) -> str:
    """Return which features were read, in words for the record."""
    found, batch = int(seen.found.sum()), len(seen.found)
    if not found:
        return f"softmax unmixing: no features of {batch} examples (misfit {seen.misfit:.0e})"
    error = float(seen.error[seen.found].max())
    return f"softmax unmixing: features of {found} of {batch} examples, to {error:.0e} or better"
