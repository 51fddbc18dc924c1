"""iLRG: how many examples of each class, from what the average example of each class would be answered.

Ma et al. 2023, "Instance-wise batch label restoration via gradients in federated learning" (ICLR). The
quotient e_j = dW_j / db_j is near the mean features of class j (section 3.2); p_j = softmax(W e_j + b).
With K examples, k_j of class j, and targets t_j (one-hot in the paper), equations 9 and 10:

    sum_j k_j (p_j - t_j) = K db,      sum_j k_j = K,

in least squares, rounded to the nearest whole numbers of sum K, whether they count too few or too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import (
    BiasedHead,
    BiasedLayer,
    LabelMethod,
    LabelRecovery,
    Reading,
    biased_head_of,
    whole,
)
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds

FAINT = 2.0**-24
"""Of the largest entry of db: what is smaller is what rounding in float32 left of a sum that cancels."""


@dataclass(frozen=True, kw_only=True)
class Ilrg(LabelMethod):
    """For batches of any size, labels repeated; losses of the form act(z) - target. Needs the bias's gradient."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation)
        return found if isinstance(found, Inapplicable) else partial(self.read, found)

    def read(self, head: BiasedHead, seeds: Seeds) -> LabelRecovery:
        """Return the counts that the head's gradient tells."""
        return LabelRecovery.of(whole(solved(head.layer, head.link), head.layer.batch), "ilrg")


def solved(layer: BiasedLayer, link: LossLink) -> Tensor:
    """Counts (C,), not yet whole."""
    return counted(layer, link, outputs(layer, embeddings(layer)))


def embeddings(layer: BiasedLayer) -> Tensor:
    """dW_j / db_j (C, d); where db_j is lost in rounding nothing is told of j: the mean of the others."""
    empty = layer.dbias.abs() <= FAINT * layer.dbias.abs().max()
    found = layer.dweight / torch.where(empty, 1.0, layer.dbias).unsqueeze(1)
    found[empty] = found[~empty].mean(0)
    return found


def outputs(layer: Layer, features: Tensor) -> Tensor:
    """W h + b (N, C) of features (N, d)."""
    found = features @ layer.weight.T
    return found if layer.bias is None else found + layer.bias


def counted(layer: BiasedLayer, link: LossLink, logits: Tensor) -> Tensor:
    """The least-squares solution (C,) of the two equations; logits (C, C) of each class's average example."""
    answers = link.value(logits / link.temperature) - link.targets
    matrix = torch.cat([answers.T, torch.ones(1, len(answers)).double()])
    right = torch.cat([layer.dbias / link.scale, torch.ones(1).double()])
    found: Tensor = layer.batch * (torch.linalg.pinv(matrix) @ right)
    return found
