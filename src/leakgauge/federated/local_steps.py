"""A weight difference of several local steps, seen in simpler ways."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from leakgauge.core import AddsNoise, Observation, Tensors, Update, trainable
from leakgauge.federated.fedavg import FedAvg
from leakgauge.federated.training import FedSGD


def as_one_gradient(observation: Observation) -> Observation:
    """The observation as if its update were one gradient at the model that was sent: -delta / multiplier.

    What is shared in small steps comes near to that; how far off it is, the residual tells. An update that
    is a gradient is returned as it is. Of an unknown number of steps, only the direction is told.
    """
    training = observation.training
    if training.kind == "gradient":
        return observation
    many = observation.knowledge.batch_size or 1
    scale = training.multiplier(many) if isinstance(training, FedAvg) else 1.0
    update = Update({name: -t / scale for name, t in observation.update.tensors.items()})
    knowledge = observation.knowledge
    if isinstance(knowledge.defense, AddsNoise):
        # Its strength is in the weight difference's units.
        knowledge = replace(knowledge, defense=None)
    return replace(observation, training=FedSGD(), update=update, knowledge=knowledge)


def interpolated(observation: Observation, share: float) -> Observation:
    """As one gradient at the model share w_start + (1 - share) w_end (Zhu et al. 2023, section 4)."""
    model = moved(observation.model, observation.update.tensors, 1 - share)
    return replace(as_one_gradient(observation), model=model)


def moved(model: nn.Module, tensors: Tensors, scale: float) -> nn.Module:
    """A copy of the model with scale times these tensors added to its parameters."""
    after = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in trainable(after).items():
            parameter += scale * tensors[name]
    return after
