"""GradInversion's rule: the B classes whose rows of the gradient have the most negative entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds


@dataclass(frozen=True, kw_only=True)
class GradInversionRule(LabelMethod):
    """Recover distinct labels by the most negative entry of each row of the gradient.

    Use it if all labels of the batch differ, which needs B <= C, and features have one sign, as
    after a ReLU. Row c of the last layer's gradient dW (C, d) has negative entries only if an
    example of class c is in the batch. The minimum over a row keeps these entries. The sum over a
    row (equation 5 of the paper) could cancel them.

    The rule returns the B classes with the lowest minimum. Targets must be 0 and 1.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, equation 6. arXiv:2104.07586.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import GradInversionRule
        >>> observation = lg.examples.observation(batch_size=3, threat=lg.Server())
        >>> GradInversionRule()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2])
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        if isinstance(found, Inapplicable):
            return found
        batch, classes = found.layer.batch, len(found.layer.weight)
        if batch > classes:
            return Inapplicable(f"needs distinct labels: batch {batch} > {classes} classes")
        return partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the labels that follow from the layer's gradient."""
        lowest = layer.dweight.min(dim=1).values
        counts = torch.zeros(len(lowest), dtype=torch.long)
        counts[lowest.argsort()[: layer.batch]] = 1
        return LabelRecovery.of(counts, "grad_inversion")
