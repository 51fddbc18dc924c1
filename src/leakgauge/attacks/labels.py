"""Labels that are not granted, read from the update before the inputs are sought.

Matching alone estimates counts from the last layer's bias and random inputs (`Known`); label recovery reads
more of the update, and differences of weights for what they are. Where it cannot, `Known` stands.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery import BestLabels
from leakgauge.core import Observation, Seeds
from leakgauge.federated.training.local_steps import interpolated
from leakgauge.inversion import GradientMatching, Known, Read


def granted(observation: Observation) -> bool:
    """Whether labels or their counts are."""
    knowledge = observation.knowledge
    return knowledge.labels is not None or knowledge.label_counts is not None


def withheld(observation: Observation) -> str | None:
    """Why there are no labels, neither granted nor read; None where there are."""
    known = Known().inapplicable(observation)
    if known is None or BestLabels().inapplicable(observation) is None:
        return None
    return known


def labels_of(observation: Observation, seeds: Seeds) -> tuple[Tensor, tuple[str, ...]]:
    """Labels granted, else read, in no order of the examples; and what the record says of them.

    Class labels (B,), or targets (B, K) where such are granted. Raises ValueError where `withheld`.
    """
    reason = withheld(observation)
    if reason is not None:
        raise ValueError(reason)
    hidden = BestLabels().inapplicable(observation)
    if granted(observation) or hidden is not None:
        labels = Known().start(observation, seeds.generator("labels"))
        if granted(observation):
            return labels, ()
        return labels, (f"labels: estimated from the last layer's bias alone, since {hidden}",)
    with seeds.isolated("labels"):
        found = BestLabels()(observation, seeds=seeds.child("labels"))
    device = observation.update.like.device
    return found.labels.to(device), ("; ".join([f"labels: {found.method}", *found.notes]),)


def settled(
    matching: GradientMatching, observation: Observation, seeds: Seeds
) -> tuple[GradientMatching, tuple[str, ...]]:
    """The matching with its labels read, where it wants known ones and none are granted; and what is said of them."""
    if not isinstance(matching.labels, Known) or granted(observation):
        return matching, ()
    labels, notes = labels_of(observation, seeds)
    return replace(matching, labels=Read(labels)), notes


def settled_over_steps(
    matching: GradientMatching, observation: Observation, seeds: Seeds
) -> tuple[GradientMatching, tuple[str, ...]]:
    """The same for local steps: read from all of them where they are known, else from one gradient in their middle."""
    known = BestLabels().inapplicable(observation) is None
    whole = observation if known else interpolated(observation, 0.5)
    return settled(matching, whole, seeds)


def refused(matching: GradientMatching, observation: Observation) -> str | None:
    """Why the matching cannot be used once its labels are settled; None where it can."""
    if not isinstance(matching.labels, Known) or granted(observation):
        return matching.inapplicable(observation)
    none = torch.zeros(0, dtype=torch.long)
    return withheld(observation) or replace(matching, labels=Read(none)).inapplicable(observation)
