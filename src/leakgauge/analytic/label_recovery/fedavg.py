"""Label counts from an update of many local steps. Outputs and features are means over the first and last model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from leakgauge.analytic.label_recovery.base import (
    LabelMethod,
    LabelRecovery,
    Reading,
    head_of,
    known_steps,
    mean_gradient,
    round_counts,
)
from leakgauge.analytic.label_recovery.ilrg import logits_of
from leakgauge.analytic.label_recovery.stand_ins import features_of, uniform
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count
from leakgauge.federated.training.local_steps import shift_model


@dataclass(frozen=True, kw_only=True)
class FedAvgCounts(LabelMethod):
    r"""Recover label counts from a weight difference after known steps of SGD.

    Use it on updates of many local steps. Features must have one sign, as after a ReLU, and targets
    must be 0 and 1.

    .. math::

        k = B \, p - \frac{B \, S}{\mathrm{steps} \cdot O},
        \qquad S = -\frac{1}{\mathrm{rate}} (W' - W) \mathbf{1}

    Here k (C,) are the counts, and B is the batch size. The last weight moved by :math:`W' - W`
    (C, d), so S (C,) holds the row sums of the gradients, summed over the steps. O is the sum of an
    example's features, and p (C,) its output. Both are means over dummy inputs, and over the models
    at the first and the last step. The method assumes that they move on a line between these
    models.

    For one step, row c of the gradient sums to :math:`\mathrm{mean}_i (p_{ic} - [y_i = c]) O_i`.

    Args:
        dummies: Number of inputs drawn uniformly from the domain, at least 1. Default ours.

    References:
        Dimitrov, Balunović, Konstantinov, Vechev. Data Leakage in Federated Averaging. TMLR 2022,
        section 4.3 and appendix. arXiv:2206.12395.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import FedAvgCounts
        >>> training = lg.federated.FedAvg(epochs=2)
        >>> observation = lg.examples.observation(6, threat=lg.Server(), training=training)
        >>> FedAvgCounts()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    dummies: Count = 64

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        training = known_steps(observation)
        if isinstance(training, Inapplicable):
            return training
        ends = []
        for end in (observation, at_last_step(observation)):
            head = head_of(mean_gradient(end, training), one_hot=True)
            if isinstance(head, Inapplicable):
                return head
            ends.append((end, head))
        return partial(self.read, ends)

    def read(self, ends: list[tuple[Observation, HeadGradient]], seeds: Seeds) -> LabelRecovery:
        """Return the counts. `ends` holds the observation at the first and at the last model, each with its head."""
        observation, first = ends[0]
        layer, link = first.layer, first.link
        inputs = uniform(observation, self.dummies, seeds.generator("dummies"))
        answers, sizes = [], []
        for end, head in ends:
            features = features_of(end, head.head, inputs)
            answers.append(link.value(logits_of(head.layer, features) / link.temperature).mean(0))
            sizes.append(features.sum(1).mean())
        size = torch.stack(sizes).mean()
        drift = layer.dweight.sum(1) / link.scale / size
        estimate = layer.batch * (torch.stack(answers).mean(0) - drift)
        return LabelRecovery.of(round_counts(estimate, layer.batch), "fedavg")


def at_last_step(observation: Observation) -> Observation:
    """Return the observation with the model at the end of the client's training."""
    return replace(
        observation, model=shift_model(observation.model, observation.update.tensors, 1.0)
    )
