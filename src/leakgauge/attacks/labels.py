"""Labels that are not granted, recovered from the update before the inputs are sought.

Matching alone estimates counts from the last layer's bias and random inputs (`Known`). Label recovery reads more of the
update, and takes weight differences for what they are. `Known` stands where it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from leakgauge.analytic.label_recovery import BestLabels, Reading
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.federated.training.local_steps import interpolated
from leakgauge.inversion import Known
from leakgauge.inversion.variables.labels import ReadyLabels


def granted(observation: Observation) -> bool:
    """Return whether labels or their counts are granted."""
    knowledge = observation.knowledge
    return knowledge.labels is not None or knowledge.label_counts is not None


@dataclass(frozen=True)
class LabelPlan:
    """How a run comes by labels: decided once, before it starts.

    Args:
        observation: the observation that they are read from.
        source: the reading of label recovery, or labels that are granted or estimated from the last layer's bias.
        notes: lines for the record on labels that label recovery does not read.
    """

    observation: Observation
    source: Reading | ReadyLabels
    notes: tuple[str, ...] = ()

    def read(self, seeds: Seeds) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels, in no order of the examples, and the notes of the record on them.

        They are class labels (B,), or targets (B, K) if those are granted.
        """
        if not callable(self.source):
            return self.source.start(self.observation, seeds.generator("labels")), self.notes
        with seeds.isolated("labels"):
            found = self.source(seeds.child("labels"))
        labels = found.labels.to(self.observation.update.like.device)
        return labels, ("; ".join([f"labels: {found.method}", *found.notes]),)


def plan_labels(observation: Observation) -> LabelPlan | Inapplicable:
    """Return how labels are recovered, or the reason why they are neither granted nor readable."""
    notes: tuple[str, ...] = ()
    if not granted(observation):
        reading = BestLabels().prepare(observation)
        if not isinstance(reading, Inapplicable):
            return LabelPlan(observation, reading)
        notes = (f"labels: estimated from the last layer's bias alone, since {reading}",)
    known = Known().prepare(observation)
    return known if isinstance(known, Inapplicable) else LabelPlan(observation, known, notes)


def plan_labels_over_steps(observation: Observation) -> LabelPlan | Inapplicable:
    """Return the same for local steps: read from all of them if they are known, else from one in their middle."""
    if not granted(observation):
        reading = BestLabels().prepare(observation)
        if not isinstance(reading, Inapplicable):
            return LabelPlan(observation, reading)
    return plan_labels(interpolated(observation, 0.5))
