"""GradInversion's rule: the K classes whose rows of the gradient have the most negative entry.

Yin et al. 2021, "See through gradients: image batch recovery via GradInversion", equation 6: an example of
class c is the only one to make dW_c negative, and a minimum keeps it where the sum over features of
equation 5 would cancel. The labels are taken to be distinct.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds


@dataclass(frozen=True, kw_only=True)
class GradInversionRule(LabelMethod):
    """For batches of distinct labels, so no larger than the number of classes; features of one sign (ReLU)."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        if isinstance(found, Inapplicable):
            return found
        batch, classes = found.layer.batch, len(found.layer.weight)
        if batch > classes:
            return Inapplicable(f"takes labels to be distinct: batch {batch} > {classes}")
        return partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the labels that the layer's gradient tells."""
        lowest = layer.dweight.min(dim=1).values
        counts = torch.zeros(len(lowest), dtype=torch.long)
        counts[lowest.argsort()[: layer.batch]] = 1
        return LabelRecovery.of(counts, "grad_inversion")
