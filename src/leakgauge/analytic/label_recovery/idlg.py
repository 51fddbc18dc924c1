"""iDLG: the label of a single example is the class whose row of the gradient opposes all others.

Zhao et al. 2020, "iDLG: Improved deep leakage from gradients", equations 3 and 4: dW_j = (p_j - t_j) h', and
p_j - t_j is negative for the label alone. So c is the class with dW_c . dW_j <= 0 for every other j.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds


@dataclass(frozen=True, kw_only=True)
class Idlg(LabelMethod):
    """For batch 1 and targets of 0 and 1."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True, uneven=True)
        if isinstance(found, Inapplicable):
            return found
        if found.layer.batch > 1:
            return Inapplicable(f"reads one label: batch {found.layer.batch} > 1")
        return partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the labels that the layer's gradient tells."""
        slopes = layer.dbias if layer.dbias is not None else opposed(layer.dweight)
        counts = torch.zeros(len(slopes), dtype=torch.long)
        counts[slopes.argmin()] = 1
        return LabelRecovery.of(counts, "idlg")


def opposed(dweight: Tensor) -> Tensor:
    """dL/dz (C,) of the only example up to a positive factor: the one negative row is the lowest."""
    products = dweight @ dweight.T
    order = products.sign().sum(1).argmin()  # it opposes every other
    return -products[order]
