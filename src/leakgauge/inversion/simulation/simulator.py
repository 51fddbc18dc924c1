"""The adversary's simulation of the client: the same local training, and the effect of a known defense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from leakgauge.core import (
    Misleading,
    Observation,
    SingleGradient,
    Tensors,
    Update,
    deep_copy,
    effect,
    trainable,
)
from leakgauge.federated.training.fedsgd import local_update
from leakgauge.federated.training.rounds import Rounds, join_rounds, split_rounds
from leakgauge.inversion.simulation.squared_error import with_elementary_squares
from leakgauge.output import loss_in


class Simulator(Protocol):
    """A function from a candidate batch to the update that it would have shared."""

    def __call__(self, unit: Tensor, targets: Tensor) -> Tensors:
        r"""Return the update of examples (B, \*shape) in unit coordinates with targets (B,) or (B, K)."""
        ...


def in_precision(observation: Observation, dtype: torch.dtype) -> Observation:
    """Return the observation with the adversary's own copy of model, loss and update in another precision."""
    return replace(
        observation,
        model=deep_copy(observation.model).to(dtype),
        loss=loss_in(observation, dtype),
        update=observation.update.map(lambda t: t.to(dtype)),
    )


def simulator(observation: Observation, *, create_graph: bool) -> Simulator:
    """Return a function that runs the client's local training, then applies a known defense."""
    adapt = adaptation(observation)

    def simulate(unit: Tensor, targets: Tensor) -> Tensors:
        inputs = observation.domain.from_unit(unit)
        return adapt(
            local_update(
                observation.training,
                observation.model,
                observation.loss,
                inputs,
                targets,
                create_graph=create_graph,
            )
        )

    return simulate


def functional_simulator(observation: Observation, training: SingleGradient) -> Simulator:
    """Return the simulator as a pure function, which `torch.func` and `torch.compile` can transform."""
    adapt, gradient = adaptation(observation), functional_gradient(observation, training)
    return lambda unit, targets: adapt(gradient(unit, targets))


def functional_gradient(observation: Observation, training: SingleGradient) -> Simulator:
    """Return the client's gradient as a pure function, before any defense."""
    parameters = {name: p.detach() for name, p in trainable(observation.model).items()}
    loss = with_elementary_squares(observation.loss)

    def simulate(unit: Tensor, targets: Tensor) -> Tensors:
        inputs = observation.domain.from_unit(unit)

        def scalar(parameters: Tensors) -> Tensor:
            return training.scalar(observation.model, loss, parameters, inputs, targets)

        gradient: Tensors = torch.func.grad(scalar)(parameters)
        return gradient

    return simulate


def drop_misleading(observation: Observation) -> Observation:
    """Return the observation without the parts of its update that a known defense made useless or false."""
    misleading = effect(observation, Misleading)
    if misleading is None:
        return observation
    update = misleading.believed(observation.update)
    return observation if update is observation.update else replace(observation, update=update)


def adaptation(observation: Observation) -> Callable[[Tensors], Tensors]:
    """Return a function that applies a known defense to a simulated update.

    It is the identity if no defense is known. If the update has several rounds, the defense is
    applied to each round separately.
    """
    defense, training = observation.knowledge.defense, observation.training
    if defense is None:
        return lambda tensors: tensors
    if not isinstance(training, Rounds):
        return defense.adapt(observation.update)
    names, kind = list(trainable(observation.model)), observation.update.kind
    each = [defense.adapt(Update(t, kind)) for t in split_rounds(observation.update.tensors, names)]

    def adapt(tensors: Tensors) -> Tensors:
        rounds = split_rounds(tensors, names)
        return join_rounds([one(held) for one, held in zip(each, rounds, strict=True)])

    return adapt
