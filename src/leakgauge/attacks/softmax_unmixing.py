"""Second-order gradient matching, led by the features of each example from the last layer's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.last_layer import HeadGradient, separable_head, unmix_head
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
    scale_progress,
)
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.inversion import FeatureMatch, FixedLabels, GeometricSchedule
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.search.engine import Ready, ready

UNLABELED = "it needs the label of each example, and some labels are neither granted nor recovered"
"""The reason why a search that needs the label of each example cannot run."""
READING = 0.1
"""Fraction of the whole progress for reading the features. The descent takes most of the time."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxUnmixing(BaseAttack):
    r"""Recover each example's features from the last layer's gradient, to lead second-order gradient matching.

    Use it on smooth networks, if the batch has fewer examples than there are classes. Several
    examples may have the same label.

    .. math::

        \min_x \; d(g(x, y), g^*) + w \, p(x) + \frac{v}{B} \sum_{i=1}^{B} \frac{\|h(x_i) - h_i\|^2}{s^2}

    The distance :math:`d` and the prior :math:`p` are those of SecondOrder. Here :math:`h(x_i)` are
    the features of example :math:`i` of :math:`B`, the input of the last layer, and :math:`s` is
    the spread of the features. The weights :math:`w` and :math:`v` fall during the search.

    Softmax unmixing recovers :math:`h_i` exactly from the gradient of the last layer, together with
    the label of example :math:`i`. So two examples of one class do not end as a blend of both.
    Granted labels help the recovery, but are not needed.

    Args:
        weight: Weight v of the features at the start, above 0. At the start, d is about 1.
        smoothness: Weight w of the prior at the start, at least 0.
        warm: Number of stages of L-BFGS, at least 1.
        iterations: Largest number of iterations of each L-BFGS stage, at least 1.
        stages: Number of Gauss-Newton stages that follow, at least 1.

    References:
        Ours. We know of no publication.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> attack = lg.attacks.SoftmaxUnmixing(warm=1, iterations=20, stages=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

    weight: Positive = 1.0
    smoothness: NonNegative = 1.0
    warm: Count = 7
    iterations: Count = 300
    stages: Count = 6

    @property
    def descent(self) -> SecondOrder:
        """Return the search that follows the recovery of the features."""
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
        head = separable_head(observation)
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
        """Return the result of matching with the features and labels from the last layer's gradient."""
        tell = reporter(progress)
        unmixing = unmix_head(observation, head, seeds.generator("unmixing"), tell=tell)
        labels = complete_labels(unmixing.labels, partial(plan_labels, observation), seeds)
        if labels is None:
            return report_nothing_found(observation, Status.INAPPLICABLE, UNLABELED)
        error = torch.where(unmixing.found, unmixing.error, torch.inf)
        term = FeatureMatch.of(observation, head.name, unmixing.features, error, pooled=True)
        features = GeometricSchedule(self.weight, 1e-4 * self.weight) * term
        led = descent.with_labels(labels).with_terms(features)

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, notes=(describe(unmixing), *found.notes))

        descending = scale_progress(progress, READING, 1 - READING, finish=noted)
        return noted(led.search(seeds, descending))


def reporter(progress: Progress) -> Callable[[float], None]:
    """Return a function that takes the completed fraction of reading features, and reports the progress."""
    return lambda fraction: progress(Moment(READING * fraction))


def complete_labels(
    labels: Tensor, plan: Callable[[], LabelPlan | Inapplicable], seeds: Seeds
) -> Tensor | None:
    """Return labels (B,) in which each unknown one, -1, is replaced, or None if that is not possible.

    Granted or recovered counts of the labels replace the unknown ones.

    Args:
        labels: The labels (B,), -1 for each unknown one.
        plan: Returns how the counts are recovered. It is called only if a label is unknown.
        seeds: Seeds of the recovery.
    """
    unknown = labels < 0
    if not bool(unknown.any()):
        return labels
    found = plan()
    if isinstance(found, Inapplicable):
        return None
    left = found.read(seeds)[0].tolist()
    for label in labels[~unknown].tolist():
        # An estimate may miss a label that was recovered with its features. Then another label
        # makes room.
        left.remove(label if label in left else left[-1])
    labels = labels.clone()
    labels[unknown] = torch.tensor(left)
    return labels


def describe(unmixing: Unmixed) -> str:
    """Return a note for the record on the recovered features."""
    found, batch = int(unmixing.found.sum()), len(unmixing.found)
    if not found:
        return (
            f"softmax unmixing: recovered the features of 0 of {batch} examples "
            f"(relative misfit {unmixing.misfit:.0e})"
        )
    error = float(unmixing.error[unmixing.found].max())
    return (
        f"softmax unmixing: recovered the features of {found} of {batch} examples, "
        f"with relative errors up to {error:.0e}"
    )
