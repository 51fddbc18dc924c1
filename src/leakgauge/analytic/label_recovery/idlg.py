"""iDLG: the label of a single example is the class whose row of the gradient opposes all others.

Zhao et al. 2020, "iDLG: Improved deep leakage from gradients", equations 3 and 4: dW_j = (p_j - t_j) h', and
p_j - t_j is negative for the label alone. So c is the class with dW_c . dW_j <= 0 for every other j.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelRecovery, head_of, told
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds


@dataclass(frozen=True, kw_only=True)
class Idlg:
    """For batch 1 and targets of 0 and 1."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why the labels cannot be read, in one line, or None if they can."""
        found = self._head(observation)
        return found.reason if isinstance(found, Inapplicable) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        layer, _ = told(self._head(observation))
        slopes = layer.dbias if layer.dbias is not None else opposed(layer.dweight)
        counts = torch.zeros(len(slopes), dtype=torch.long)
        counts[slopes.argmin()] = 1
        return LabelRecovery.of(counts, "idlg")

    def _head(self, observation: Observation) -> tuple[Layer, LossLink] | Inapplicable:
        found = head_of(observation, one_hot=True, uneven=True)
        if isinstance(found, Inapplicable):
            return found
        batch = found[0].batch
        return found if batch == 1 else Inapplicable(f"reads one label: batch {batch} > 1")


def opposed(dweight: Tensor) -> Tensor:
    """dL/dz (C,) of the only example up to a positive factor: the one negative row is the lowest."""
    products = dweight @ dweight.T
    order = products.sign().sum(1).argmin()  # it opposes every other
    return -products[order]
