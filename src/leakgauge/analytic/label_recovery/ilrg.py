"""iLRG: label counts by least squares, from the outputs for an average example of each class."""

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
    round_counts,
)
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds

FAINT = 2.0**-24
"""An entry of db below this relative size may be rounding of a float32 sum whose terms cancel."""


@dataclass(frozen=True, kw_only=True)
class Ilrg(LabelMethod):
    r"""Recover label counts from an average example of each class, by least squares.

    Use it at any batch size, also with repeated labels. The loss must have a slope of the form
    act(z) - target. The gradient of the last layer's bias is needed.

    .. math::

        \sum_j k_j (p_j - t_j) = B \, db, \qquad \sum_j k_j = B

    Here :math:`k_j` is the number of examples of class j, and B the batch size. The last
    layer has gradients dW (C, d) and db (C,). The quotient :math:`e_j = dW_j / db_j` is close to
    the mean features of class j. Their output is :math:`p_j = \mathrm{softmax}(W e_j + b)`, and
    their target :math:`t_j`, one-hot in the paper. The solution is rounded to the nearest whole
    numbers with sum B.

    References:
        Ma, Sun, Cui, Li, Guan, Liu. Instance-wise Batch Label Restoration via Gradients in
        Federated Learning. ICLR 2023, section 3.2, equations 9 and 10.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Ilrg
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> Ilrg()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation)
        return found if isinstance(found, Inapplicable) else partial(self.read, found)

    def read(self, head: BiasedHead, seeds: Seeds) -> LabelRecovery:
        """Return the counts that follow from the head's gradient."""
        return LabelRecovery.of(
            round_counts(estimate_counts(head.layer, head.link), head.layer.batch), "ilrg"
        )


def estimate_counts(layer: BiasedLayer, link: LossLink) -> Tensor:
    """Return the counts (C,) before rounding to whole numbers."""
    return counts_from_logits(layer, link, logits_of(layer, embeddings(layer)))


def embeddings(layer: BiasedLayer) -> Tensor:
    """Return dW_j / db_j (C, d). If db_j is lost in rounding, row j is the mean of the other rows."""
    empty = layer.dbias.abs() <= FAINT * layer.dbias.abs().max()
    found = layer.dweight / torch.where(empty, 1.0, layer.dbias).unsqueeze(1)
    found[empty] = found[~empty].mean(0)
    return found


def logits_of(layer: Layer, features: Tensor) -> Tensor:
    """Return W h + b (N, C) for features (N, d)."""
    found = features @ layer.weight.T
    return found if layer.bias is None else found + layer.bias


def counts_from_logits(layer: BiasedLayer, link: LossLink, logits: Tensor) -> Tensor:
    """Return the least-squares solution (C,) of the two equations of `Ilrg`.

    Args:
        layer: The last layer with its gradients.
        link: The loss.
        logits: (C, C), row j for the average example of class j.
    """
    answers = link.value(logits / link.temperature) - link.targets
    matrix = torch.cat([answers.T, torch.ones(1, len(answers)).double()])
    right = torch.cat([layer.dbias / link.scale, torch.ones(1).double()])
    found: Tensor = layer.batch * (torch.linalg.pinv(matrix) @ right)
    return found
