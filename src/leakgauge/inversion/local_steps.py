"""An update of several local steps seen in simpler ways, and judged by the true one."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from leakgauge.core import AddsNoise, Observation, Reconstruction, Update, trainable
from leakgauge.federated.fedavg import FedAvg
from leakgauge.federated.training import FedSGD
from leakgauge.inversion.distances import relative_residual
from leakgauge.inversion.simulation import simulator


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
    model = copy.deepcopy(observation.model)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter += (1 - share) * observation.update.tensors[name]
    return replace(as_one_gradient(observation), model=model)


def residual_of(observation: Observation, found: Reconstruction) -> float | None:
    """||u - u*|| / ||u*|| of what a guess would have shared; None where it has no targets."""
    if found.targets is None:
        return None
    unit = observation.domain.to_unit(found.inputs)
    simulated = simulator(observation, create_graph=False)(unit, found.targets)
    return float(relative_residual(simulated, observation.update.tensors))
