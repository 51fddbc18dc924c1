"""Recipes: attacks that are compositions of the parts in `inversion`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from leakgauge.attacks.labels import LabelPlan, granted, plan_labels
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    scale_progress,
)
from leakgauge.inversion import FixedLabels, GradientMatching, Known
from leakgauge.inversion.search.engine import Ready, ready


class Recipe(BaseAttack):
    """An attack that is one `GradientMatching`. Subclasses are frozen dataclasses that override `matching`."""

    def matching(self) -> GradientMatching:
        """Return the composition of this recipe."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return self.matching().requires

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        return plan_matching(self.matching(), observation)


@dataclass(frozen=True)
class Labeled:
    """A matching that is ready except for its labels, which are recovered when a search starts.

    Args:
        ready: The matching without labels.
        labels: How the labels are recovered.
    """

    ready: Ready
    labels: LabelPlan

    def search(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the result of matching with recovered labels. Its notes are those of both steps."""
        settled, notes = settle(self, seeds)

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, notes=(*notes, *found.notes))

        return noted(settled.search(seeds, scale_progress(progress, 0.0, 1.0, finish=noted)))


def settle(matching: Labeled | Ready, seeds: Seeds) -> tuple[Ready, tuple[str, ...]]:
    """Return the matching with its labels, recovered if needed, and notes for the record on the labels."""
    if isinstance(matching, Ready):
        return matching, ()
    labels, notes = matching.labels.read(seeds)
    return matching.ready.with_labels(labels), notes


def label_first(
    matching: GradientMatching,
    observation: Observation,
    labels: LabelPlan | Inapplicable | None = None,
) -> Labeled | Inapplicable:
    """Return the matching with labels that are granted or recovered, or the reason why it cannot run.

    Args:
        matching: A matching with any rule for labels. The rule is replaced.
        observation: The observation to attack.
        labels: How labels are recovered. The default is `plan_labels(observation)`.
    """
    labels = plan_labels(observation) if labels is None else labels
    if isinstance(labels, Inapplicable):
        return labels
    none = torch.zeros(0, dtype=torch.long)
    found = ready(replace(matching, labels=FixedLabels(none)), observation)
    return found if isinstance(found, Inapplicable) else Labeled(found, labels)


def label_if_needed(
    matching: GradientMatching,
    observation: Observation,
    labels: LabelPlan | Inapplicable | None = None,
) -> Labeled | Ready | Inapplicable:
    """Return the matching with labels, or the reason why it cannot run.

    Labels are recovered as in `label_first` if the matching wants known labels and none are
    granted. Otherwise its own rule for labels applies.
    """
    if isinstance(matching.labels, Known) and not granted(observation):
        return label_first(matching, observation, labels)
    return ready(matching, observation)


def plan_matching(matching: GradientMatching, observation: Observation) -> Plan | Inapplicable:
    """Return the plan of a matching, or the reason why it cannot run.

    `label_if_needed` says how the matching gets its labels.
    """
    found = label_if_needed(matching, observation)
    if isinstance(found, Inapplicable):
        return found
    return Plan(evaluations=matching.budget, search=found.search)
