"""A recipe: a paper's attack, written as a composition of the parts in `inversion`."""

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
    within,
)
from leakgauge.inversion import FixedLabels, GradientMatching, Known
from leakgauge.inversion.search.engine import Ready, ready


class Recipe(BaseAttack):
    """An Attack that is a `GradientMatching`. Subclasses are frozen dataclasses that override `matching`."""

    def matching(self) -> GradientMatching:
        """Return the composition that this recipe stands for."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return self.matching().requires

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        return plan_matching(self.matching(), observation)


@dataclass(frozen=True)
class Labeled:
    """A matching that is ready but for labels, which are read when a search starts."""

    ready: Ready
    labels: LabelPlan

    def search(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Read labels, then match. The notes of both are in the reconstruction."""
        settled, notes = settle(self, seeds)

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, notes=(*notes, *found.notes))

        return noted(settled.search(seeds, within(progress, 0.0, 1.0, finish=noted)))


def settle(matching: Labeled | Ready, seeds: Seeds) -> tuple[Ready, tuple[str, ...]]:
    """Return the matching with its labels, read if they have to be, and the notes of the record on them."""
    if isinstance(matching, Ready):
        return matching, ()
    labels, notes = matching.labels.read(seeds)
    return matching.ready.with_labels(labels), notes


def label_first(
    matching: GradientMatching,
    observation: Observation,
    labels: LabelPlan | Inapplicable | None = None,
) -> Labeled | Inapplicable:
    """Return the matching with labels that are granted or read when a search starts, or the reason why it cannot run.

    Args:
        labels: how labels are read. By default from `observation`.
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
    """Return the same for a matching that may have a rule for labels of its own, which then is used."""
    if isinstance(matching.labels, Known) and not granted(observation):
        return label_first(matching, observation, labels)
    return ready(matching, observation)


def plan_matching(matching: GradientMatching, observation: Observation) -> Plan | Inapplicable:
    """Return the plan of a matching whose labels are read first if it wants known ones and none are granted."""
    found = label_if_needed(matching, observation)
    if isinstance(found, Inapplicable):
        return found
    return Plan(evaluations=matching.budget, search=found.search)
