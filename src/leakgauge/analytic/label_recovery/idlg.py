"""iDLG: the label of a single example, from the signs of the last layer's gradient."""

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
    r"""Recover the label of batch 1 from the signs of the gradient.

    Use it with targets of 0 and 1. `LabelOfOne` needs no signs and proves its label.

    Row j of the gradient of the last weight is :math:`dW_j = (p_j - t_j) h'`, with the output p
    (C,), the target t (C,) and the features h (d,). The slope :math:`p_j - t_j` is negative for the
    label alone. The label is therefore the class c with :math:`dW_c \cdot dW_j \le 0` for every
    other class j. If the bias has a gradient db = p - t, its lowest entry gives the label directly.

    References:
        Zhao, Mopuri, Bilen. iDLG: Improved Deep Leakage from Gradients. 2020, equations 3 and 4.
        arXiv:2001.02610.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Idlg
        >>> Idlg()(lg.examples.observation(threat=lg.Server()), seeds=lg.Seeds(0)).labels
        tensor([0])
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True, uneven=True)
        if isinstance(found, Inapplicable):
            return found
        if found.layer.batch > 1:
            return Inapplicable(f"recovers one label: batch {found.layer.batch} > 1")
        return partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the label that follows from the layer's gradient."""
        slopes = layer.dbias if layer.dbias is not None else slopes_of_one(layer.dweight)
        counts = torch.zeros(len(slopes), dtype=torch.long)
        counts[slopes.argmin()] = 1
        return LabelRecovery.of(counts, "idlg")


def slopes_of_one(dweight: Tensor) -> Tensor:
    """Return dL/dz (C,) of the only example, up to a positive factor. The label has the lowest entry."""
    products = dweight @ dweight.T
    order = products.sign().sum(1).argmin()  # the row that opposes every other
    return -products[order]
