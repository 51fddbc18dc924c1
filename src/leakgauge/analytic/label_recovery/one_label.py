"""The label of a batch of one, as the label that explains the gradient of the last layer. Ours.

With the bias's gradient the outputs are known, and each label foretells the whole gradient (`output.one_label`). That
asks nothing of the loss's form or of the features' signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from leakgauge.analytic.label_recovery.base import (
    LabelMethod,
    LabelRecovery,
    Reading,
    as_gradient,
)
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.federated.training.calibration import one_gradient
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.output import OneLabel, label_of_one


@dataclass(frozen=True, kw_only=True)
class LabelOfOne(LabelMethod):
    """For batch 1 and any loss over class labels."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        batch = observation.knowledge.batch_size
        if batch != 1:
            return Inapplicable(
                "needs the batch size" if batch is None else f"reads one label: batch {batch} > 1"
            )
        # Of steps that are not told, the direction says enough.
        found = label_of_one(as_one_gradient(as_gradient(observation)))
        if isinstance(found, Inapplicable):
            return found
        return partial(self.read, found, one_gradient(observation))

    def read(self, found: OneLabel, exact: bool, seeds: Seeds) -> LabelRecovery:
        """Return the label that was found. exact: whether the update is one gradient, up to a known factor."""
        counts = torch.zeros(found.classes, dtype=torch.long)
        counts[found.label] = 1
        note = f"1 of 1 labels is told by the update: it alone explains it, to {found.misfit:.0e}"
        if not found.certain:
            note = "no label explains the last layer's gradient: its direction decides"
        if found.certain and not exact:
            note = f"it alone explains the last layer's gradient, to {found.misfit:.0e}"
        return LabelRecovery.of(counts, "one_label", note, certified=found.certain and exact)
