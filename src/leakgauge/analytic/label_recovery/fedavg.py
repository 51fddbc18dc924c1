"""Counts from an update of many local steps, as if outputs and features moved on a line meanwhile.

Dimitrov et al. 2022, "Data leakage in federated averaging" (TMLR), section 4.3 and appendix. A step's gradient
sums over row c of the last weight to mean_i (p_ic - [y_i = c]) O_i, with O_i the sum of the features of example
i. Over all steps, with update theta' - theta and the mean O and p of both ends, on inputs drawn from the domain:

    k = K p - K S / (O steps),      S = sum of the rows of the steps' gradients = -(W' - W) 1 / rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from leakgauge.analytic.label_recovery.base import (
    LabelMethod,
    LabelRecovery,
    Reading,
    head_of,
    many_steps,
    mean_gradient,
    whole,
)
from leakgauge.analytic.label_recovery.ilrg import outputs
from leakgauge.analytic.label_recovery.stand_ins import features_of, uniform
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count
from leakgauge.federated.training.local_steps import moved


@dataclass(frozen=True, kw_only=True)
class FedAvgCounts(LabelMethod):
    """For differences of weights after known SGD; features of one sign; targets of 0 and 1."""

    dummies: Count = 64

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        training = many_steps(observation)
        if isinstance(training, Inapplicable):
            return training
        ends = []
        for end in (observation, ended(observation)):
            head = head_of(mean_gradient(end, training), one_hot=True)
            if isinstance(head, Inapplicable):
                return head
            ends.append((end, head))
        return partial(self.read, ends)

    def read(self, ends: list[tuple[Observation, HeadGradient]], seeds: Seeds) -> LabelRecovery:
        """Return the counts. ends: the observation with the model at its first and last step, and its head."""
        observation, first = ends[0]
        layer, link = first.layer, first.link
        inputs = uniform(observation, self.dummies, seeds.generator("dummies"))
        answers, sizes = [], []
        for end, head in ends:
            features = features_of(end, head.head, inputs)
            answers.append(link.value(outputs(head.layer, features) / link.temperature).mean(0))
            sizes.append(features.sum(1).mean())
        size = torch.stack(sizes).mean()
        drift = layer.dweight.sum(1) / link.scale / size
        estimate = layer.batch * (torch.stack(answers).mean(0) - drift)
        return LabelRecovery.of(whole(estimate, layer.batch), "fedavg")


def ended(observation: Observation) -> Observation:
    """The observation with the model that the client ended with."""
    return replace(observation, model=moved(observation.model, observation.update.tensors, 1.0))
