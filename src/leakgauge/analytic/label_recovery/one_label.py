"""The label of a batch of one: the label that explains the gradient of the last layer."""

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
    """Recover the label of batch 1, under any loss over class labels.

    With the gradient of the bias, the outputs of the network are known. Each label then predicts
    the whole gradient of the last layer, and the label with the right prediction is chosen
    (`output.one_label`). The method needs no special form of the loss and no sign of the features.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import LabelOfOne
        >>> found = LabelOfOne()(lg.examples.observation(threat=lg.Server()), seeds=lg.Seeds(0))
        >>> found.labels, found.certified
        (tensor([0]), True)
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        batch = observation.knowledge.batch_size
        if batch != 1:
            return Inapplicable(
                "needs the batch size"
                if batch is None
                else f"recovers one label: batch {batch} > 1"
            )
        # If the steps are not known, the direction of the gradient is enough.
        found = label_of_one(as_one_gradient(as_gradient(observation)))
        if isinstance(found, Inapplicable):
            return found
        return partial(self.read, found, one_gradient(observation))

    def read(self, found: OneLabel, exact: bool, seeds: Seeds) -> LabelRecovery:
        """Return the label that was found.

        Args:
            found: The label, and how well it explains the gradient.
            exact: Whether the update is one gradient, up to a known factor.
            seeds: Not used.
        """
        counts = torch.zeros(found.classes, dtype=torch.long)
        counts[found.label] = 1
        misfit = f"relative misfit {found.misfit:.0e}"
        note = f"1 of 1 labels are proven by the update: no other label explains it ({misfit})"
        if not found.certain:
            note = "no label explains the last layer's gradient, so its direction decides"
        if found.certain and not exact:
            note = f"no other label explains the last layer's gradient ({misfit})"
        return LabelRecovery.of(counts, "one_label", note, certified=found.certain and exact)
