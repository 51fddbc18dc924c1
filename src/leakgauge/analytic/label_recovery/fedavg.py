"""Counts from an update of many local steps, as if outputs and features moved on a line meanwhile.

Dimitrov et al. 2022, "Data leakage in federated averaging" (TMLR), section 4.3 and appendix. A step's gradient
sums over row c of the last weight to mean_i (p_ic - [y_i = c]) O_i, with O_i the sum of the features of example
i. Over all steps, with update theta' - theta and the mean O and p of both ends, on inputs drawn from the domain:

    k = K p - K S / (O steps),      S = sum of the rows of the steps' gradients = -(W' - W) 1 / rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from leakgauge.analytic.label_recovery.base import (
    LabelRecovery,
    head_of,
    many_steps,
    mean_gradient,
    told,
    whole,
)
from leakgauge.analytic.label_recovery.ilrg import outputs
from leakgauge.analytic.label_recovery.stand_ins import features_of, uniform
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count
from leakgauge.federated.training.local_steps import moved


@dataclass(frozen=True, kw_only=True)
class FedAvgCounts:
    """For differences of weights after known SGD; features of one sign; targets of 0 and 1."""

    dummies: Count = 64

    def inapplicable(self, observation: Observation) -> str | None:
        training = many_steps(observation)
        if isinstance(training, Inapplicable):
            return training.reason
        found = head_of(mean_gradient(observation, training), one_hot=True)
        return found.reason if isinstance(found, Inapplicable) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        training = many_steps(observation)
        if isinstance(training, Inapplicable):
            raise ValueError(f"labels cannot be read: {training}")
        layer, link = told(head_of(mean_gradient(observation, training), one_hot=True))
        inputs = uniform(observation, self.dummies, seeds.generator("dummies"))
        answers, sizes = [], []
        for end in (observation, ended(observation)):
            held = told(head_of(mean_gradient(end, training), one_hot=True))[0]
            features = features_of(end, inputs)
            answers.append(link.value(outputs(held, features) / link.temperature).mean(0))
            sizes.append(features.sum(1).mean())
        size = torch.stack(sizes).mean()
        drift = layer.dweight.sum(1) / link.scale / size
        estimate = layer.batch * (torch.stack(answers).mean(0) - drift)
        return LabelRecovery.of(whole(estimate, layer.batch), "fedavg")


def ended(observation: Observation) -> Observation:
    """The observation with the model that the client ended with."""
    return replace(observation, model=moved(observation.model, observation.update.tensors, 1.0))
