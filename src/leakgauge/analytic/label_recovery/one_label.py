"""The label of a batch of one, as the label that explains the gradient of the last layer. Ours.

With the bias's gradient the outputs are known, and each label foretells the whole gradient (`output.one_label`). That
asks nothing of the loss's form or of the features' signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from leakgauge.analytic.label_recovery.base import LabelRecovery, as_gradient
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.federated.training.calibration import one_gradient
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.output import OneLabel, label_of_one


@dataclass(frozen=True, kw_only=True)
class LabelOfOne:
    """For batch 1 and any loss over class labels."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why the label cannot be read, in one line, or None if it can."""
        found = self._read(observation)
        return found.reason if isinstance(found, Inapplicable) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        """Return the label. Raises ValueError if `inapplicable` gives a reason."""
        found = self._read(observation)
        if isinstance(found, Inapplicable):
            raise ValueError(f"labels cannot be read: {found}")
        counts = torch.zeros(found.classes, dtype=torch.long)
        counts[found.label] = 1
        note = f"1 of 1 labels is told by the update: it alone explains it, to {found.misfit:.0e}"
        if not found.certain:
            note = "no label explains the last layer's gradient: its direction decides"
        exact = one_gradient(observation)
        if found.certain and not exact:
            note = f"it alone explains the last layer's gradient, to {found.misfit:.0e}"
        return LabelRecovery.of(counts, "one_label", note, certified=found.certain and exact)

    def _read(self, observation: Observation) -> OneLabel | Inapplicable:
        batch = observation.knowledge.batch_size
        if batch != 1:
            return Inapplicable(
                "needs the batch size" if batch is None else f"reads one label: batch {batch} > 1"
            )
        # Of steps that are not told, the direction says enough.
        return label_of_one(as_one_gradient(as_gradient(observation)))
