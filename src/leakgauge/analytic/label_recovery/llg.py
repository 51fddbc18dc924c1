"""LLG: labels taken one by one from the row sums of the last weight's gradient, each by its impact.

Wainakh et al. 2022, "User-level label leakage from gradients in federated learning" (PoPETs), algorithm 1.
With K examples, C classes, g_c the sum of row c of dW, impact m < 0 of one example and offset s:

    first every class with g_c < 0 is taken once;  g <- g - s;
    then, until K are taken, the class c of the lowest g_c.   Whenever c is taken, g_c <- g_c - m.

LLG knows the gradient alone (equation 9): m = (1 + 1/C) / K  sum of the negative g_c, and s = 0. LLG* and
LLG+ know the model and average over inputs, dummies or auxiliary ones (equations 10 and 11), here with each
input under each label: m = (1 + 1/C) / K  mean_c g_c(all of label c), s_c = mean over other labels of g_c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.label_recovery.ilrg import outputs
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary, features_of, uniform
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count


@dataclass(frozen=True, kw_only=True)
class Llg(LabelMethod):
    """LLG: any batch size, from the gradient alone. Features of one sign (ReLU, sigmoid); targets of 0 and 1."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the counts that the layer's gradient tells."""
        sums = layer.dweight.sum(1)
        impact = (1 + 1 / len(sums)) / layer.batch * sums[sums < 0].sum()
        return LabelRecovery.of(taken(sums, layer.batch, impact, torch.zeros_like(sums)), "llg")


@dataclass(frozen=True, kw_only=True)
class LlgStar(LabelMethod):
    """LLG*: impact and offset from `dummies` inputs drawn uniformly from the domain."""

    dummies: Count = 64

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: HeadGradient, seeds: Seeds) -> LabelRecovery:
        """Return the counts, by impact and offset of inputs that are drawn."""
        inputs = uniform(observation, self.dummies, seeds.generator("dummies"))
        features = features_of(observation, head.head, inputs)
        return _calibrated(head.layer, head.link, features, None, "llg_star")


@dataclass(frozen=True, kw_only=True)
class LlgPlus(LabelMethod):
    """LLG+: impact and offset from labeled examples of the same kind as the client's."""

    auxiliary: Auxiliary

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: HeadGradient, seeds: Seeds) -> LabelRecovery:
        """Return the counts, by impact and offset of the auxiliary examples."""
        features = features_of(observation, head.head, self.auxiliary.inputs)
        targets = self.auxiliary.targets.cpu()
        return _calibrated(head.layer, head.link, features, targets, "llg_plus")


def _calibrated(
    layer: Layer, link: LossLink, features: Tensor, targets: Tensor | None, method: str
) -> LabelRecovery:
    """Labels by the impact and offset that inputs of these features (N, d) have, of each or of their own label."""
    classes = len(layer.weight)
    answers = link.value(outputs(layer, features) / link.temperature) * link.scale
    size = features.sum(1, keepdim=True)
    # Row y, column c: the sum of row c of the gradient of a batch all of label y.
    if targets is None:
        batches = (answers * size).mean(0) - link.scale * size.mean() * torch.eye(classes).double()
    else:
        slopes = (answers - link.scale * torch.eye(classes).double()[targets]) * size
        batches = slopes.mean(0).expand(classes, -1).clone()
        for kind in set(targets.tolist()):
            batches[kind] = slopes[targets == kind].mean(0)
    own = batches.diagonal()
    impact = (1 + 1 / classes) / layer.batch * own.mean()
    offset = (batches.sum(0) - own) / (classes - 1)
    counts = taken(layer.dweight.sum(1), layer.batch, impact, offset)
    return LabelRecovery.of(counts, method)


def taken(sums: Tensor, batch: int, impact: Tensor, offset: Tensor) -> Tensor:
    """Counts (C,) of `batch` labels from row sums (C,), the impact of one example and the offset (C,)."""
    left, counts = sums.clone(), torch.zeros(len(sums), dtype=torch.long)

    def take(label: int) -> None:
        counts[label] += 1
        left[label] -= impact

    for label in sums.argsort()[:batch].tolist():
        if sums[label] < 0:
            take(label)
    left -= offset
    while int(counts.sum()) < batch:
        take(int(left.argmin()))
    return counts
