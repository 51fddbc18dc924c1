"""LLG, LLG* and LLG+: labels are chosen one by one by the row sums of the last weight's gradient.

All three run algorithm 1 of the paper. There are B examples and C classes. Let g_c be the sum of
row c of dW, m < 0 the impact of one example, and s (C,) an offset.

1. Choose every class with g_c < 0 once. Then subtract s from g.
2. Until there are B labels, choose the class with the lowest g_c.

Each time class c is chosen, m is subtracted from g_c. The methods differ in m and s.

References:
    Wainakh, Ventola, Müßig, Keim, Garcia Cordero, Zimmer, Grube, Kersting, Mühlhäuser. User-Level
    Label Leakage from Gradients in Federated Learning. PoPETs 2022, algorithm 1. arXiv:2105.09369.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.label_recovery.ilrg import logits_of
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary, features_of, uniform
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count


@dataclass(frozen=True, kw_only=True)
class Llg(LabelMethod):
    r"""Recover label counts from the gradient alone, by the row sums of the last weight.

    Use it at any batch size. Features must have one sign (ReLU, sigmoid), and targets must be 0 and
    1. `LlgStar` and `LlgPlus` also evaluate the model.

    The impact of one example is :math:`m = \frac{1 + 1/C}{B} \sum_{c : g_c < 0} g_c`, and the
    offset is 0. Here C is the number of classes, B the batch size, and :math:`g_c` the sum of row c
    of the gradient of the last weight.

    References:
        Wainakh, Ventola, Müßig, Keim, Garcia Cordero, Zimmer, Grube, Kersting, Mühlhäuser.
        User-Level Label Leakage from Gradients in Federated Learning. PoPETs 2022, algorithm 1 and
        equation 9. arXiv:2105.09369.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Llg
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> Llg()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, found.layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the counts that follow from the layer's gradient."""
        sums = layer.dweight.sum(1)
        impact = (1 + 1 / len(sums)) / layer.batch * sums[sums < 0].sum()
        return LabelRecovery.of(
            take_labels(sums, layer.batch, impact, torch.zeros_like(sums)), "llg"
        )


@dataclass(frozen=True, kw_only=True)
class LlgStar(LabelMethod):
    r"""Recover label counts by row sums, with impact and offset from random inputs through the model.

    Use it at any batch size if the model is known and no labeled examples are at hand. Targets must
    be 0 and 1.

    Each dummy input is evaluated under each label. With :math:`g_c(y)` the sum of row c of the
    gradient for a batch of label y alone, the impact is
    :math:`m = \frac{1 + 1/C}{B} \mathrm{mean}_c \, g_c(c)`. The offset :math:`s_c` is the mean of
    :math:`g_c(y)` over the other labels y.

    Args:
        dummies: Number of inputs drawn uniformly from the domain, at least 1. Default ours.

    References:
        Wainakh, Ventola, Müßig, Keim, Garcia Cordero, Zimmer, Grube, Kersting, Mühlhäuser.
        User-Level Label Leakage from Gradients in Federated Learning. PoPETs 2022, algorithm 1,
        equations 10 and 11. arXiv:2105.09369.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import LlgStar
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> LlgStar(dummies=16)(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    dummies: Count = 64

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: HeadGradient, seeds: Seeds) -> LabelRecovery:
        """Return the counts, with impact and offset of dummy inputs."""
        inputs = uniform(observation, self.dummies, seeds.generator("dummies"))
        features = features_of(observation, head.head, inputs)
        return _count_by_impact(head.layer, head.link, features, None, "llg_star")


@dataclass(frozen=True, kw_only=True)
class LlgPlus(LabelMethod):
    """Recover label counts by row sums, with impact and offset from labeled examples.

    Use it at any batch size if the adversary has labeled examples of the same kind as the client's.
    Targets must be 0 and 1. The equations are those of `LlgStar`, with auxiliary examples for the
    dummies, each under its own label.

    Args:
        auxiliary: Labeled examples of the adversary's own.

    References:
        Wainakh, Ventola, Müßig, Keim, Garcia Cordero, Zimmer, Grube, Kersting, Mühlhäuser.
        User-Level Label Leakage from Gradients in Federated Learning. PoPETs 2022, algorithm 1,
        equations 10 and 11. arXiv:2105.09369.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Auxiliary, LlgPlus
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> own = lg.data.digits()
        >>> auxiliary = Auxiliary(own.inputs[100:200], own.targets[100:200])
        >>> LlgPlus(auxiliary=auxiliary)(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    auxiliary: Auxiliary

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: HeadGradient, seeds: Seeds) -> LabelRecovery:
        """Return the counts, with impact and offset of the auxiliary examples."""
        features = features_of(observation, head.head, self.auxiliary.inputs)
        targets = self.auxiliary.targets.cpu()
        return _count_by_impact(head.layer, head.link, features, targets, "llg_plus")


def _count_by_impact(
    layer: Layer, link: LossLink, features: Tensor, targets: Tensor | None, method: str
) -> LabelRecovery:
    """Return the labels, with the impact and offset of inputs of known features.

    Args:
        layer: The last layer with its gradient.
        link: The loss.
        features: (N, d), features of the inputs.
        targets: (N,), labels of the inputs. If None, each input is evaluated under every label.
        method: Name of the method, for the record.
    """
    classes = len(layer.weight)
    answers = link.value(logits_of(layer, features) / link.temperature) * link.scale
    size = features.sum(1, keepdim=True)
    # Row y, column c: the sum of row c of the gradient for a batch of label y alone.
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
    counts = take_labels(layer.dweight.sum(1), layer.batch, impact, offset)
    return LabelRecovery.of(counts, method)


def take_labels(sums: Tensor, batch: int, impact: Tensor, offset: Tensor) -> Tensor:
    """Return counts (C,) of `batch` labels, from row sums (C,), the impact of one example and an offset (C,)."""
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
