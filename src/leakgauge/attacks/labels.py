"""Recovery of labels before an attack searches for inputs, if labels are not granted.

The rule `Known` estimates label counts from the last layer's bias and random inputs. Label recovery
uses more of the update, and can also use an update of several local steps. If label recovery cannot
run, `Known` replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leakgauge.analytic.label_recovery import BestLabels, Reading
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.federated.training.local_steps import interpolate
from leakgauge.inversion import Known
from leakgauge.inversion.variables.labels import ReadyLabels


def granted(observation: Observation) -> bool:
    """Return whether labels or their counts are granted."""
    knowledge = observation.knowledge
    return knowledge.labels is not None or knowledge.label_counts is not None


@dataclass(frozen=True)
class LabelPlan:
    """The source of a run's labels, chosen once before the run starts.

    Args:
        observation: The observation that holds the labels or the update.
        source: A label recovery, or else the labels that are granted, or that the last layer's bias
            gives.
        notes: Notes for the record, if the labels do not come from label recovery.
    """

    observation: Observation
    source: Reading | ReadyLabels
    notes: tuple[str, ...] = ()

    def read(self, seeds: Seeds) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels and the notes on them for the record.

        Labels are classes (B,), whose order says nothing about the examples, or granted targets
        (B, K).
        """
        if not callable(self.source):
            return self.source.start(self.observation, seeds.generator("labels")), self.notes
        with seeds.isolated("labels"):
            found = self.source(seeds.child("labels"))
        labels = found.labels.to(self.observation.update.like.device)
        return labels, ("; ".join([f"labels: {found.method}", *found.notes]),)


def plan_labels(observation: Observation) -> LabelPlan | Inapplicable:
    """Return the source of labels, or the reason why labels are not granted and cannot be recovered."""
    notes: tuple[str, ...] = ()
    if not granted(observation):
        reading = BestLabels().prepare(observation)
        if not isinstance(reading, Inapplicable):
            return LabelPlan(observation, reading)
        notes = (f"labels: estimated from the last layer's bias alone, since {reading}",)
    known = Known().prepare(observation)
    return known if isinstance(known, Inapplicable) else LabelPlan(observation, known, notes)


def plan_labels_over_steps(observation: Observation) -> LabelPlan | Inapplicable:
    """Return the source of labels for an update of local steps, or the reason why there is none.

    Labels come from all local steps. If label recovery cannot use the steps, they come from one
    gradient at the model in the middle.
    """
    if not granted(observation):
        reading = BestLabels().prepare(observation)
        if not isinstance(reading, Inapplicable):
            return LabelPlan(observation, reading)
    return plan_labels(interpolate(observation, 0.5))
