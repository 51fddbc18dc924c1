"""GradInversion's rule: the K classes whose rows of the gradient have the most negative entry.

Yin et al. 2021, "See through gradients: image batch recovery via GradInversion", equation 6: an example of
class c is the only one to make dW_c negative, and a minimum keeps it where the sum over features of
equation 5 would cancel. The labels are taken to be distinct.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from leakgauge.analytic.label_recovery.base import LabelRecovery, head_of, told
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds


@dataclass(frozen=True, kw_only=True)
class GradInversionRule:
    """For batches of distinct labels, so no larger than the number of classes; features of one sign (ReLU)."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why the labels cannot be read, in one line, or None if they can."""
        found = self._head(observation)
        return found.reason if isinstance(found, Inapplicable) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        layer, _ = told(self._head(observation))
        lowest = layer.dweight.min(dim=1).values
        counts = torch.zeros(len(lowest), dtype=torch.long)
        counts[lowest.argsort()[: layer.batch]] = 1
        return LabelRecovery.of(counts, "grad_inversion")

    def _head(self, observation: Observation) -> tuple[Layer, LossLink] | Inapplicable:
        found = head_of(observation, one_hot=True)
        if isinstance(found, Inapplicable):
            return found
        batch, classes = found[0].batch, len(found[0].weight)
        if batch > classes:
            return Inapplicable(f"takes labels to be distinct: batch {batch} > {classes}")
        return found
