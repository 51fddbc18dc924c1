"""The adversary's copy of the client: the same forward operator, seen through the defense that it knows."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from leakgauge.core import Observation, Tensors


class Simulator(Protocol):
    """A candidate in, the update that it would have shared out."""

    def __call__(self, unit: Tensor, targets: Tensor, *, create_graph: bool) -> Tensors:
        """unit (B, *shape) in unit coordinates, targets (B,) or (B, K)."""
        ...


def in_double(observation: Observation) -> Observation:
    """The observation with the adversary's own copy of model and update in float64."""
    return replace(
        observation,
        model=copy.deepcopy(observation.model).double(),
        update=observation.update.map(lambda t: t.double()),
    )


def simulator(observation: Observation) -> Simulator:
    """The client's local training on the observed model, then what a known defense lets through."""
    defense = observation.knowledge.defense
    adapt = defense.adapt(observation.update) if defense is not None else lambda tensors: tensors

    def simulate(unit: Tensor, targets: Tensor, *, create_graph: bool) -> Tensors:
        inputs = observation.domain.from_unit(unit)
        return adapt(
            observation.training(
                observation.model, observation.loss, inputs, targets, create_graph=create_graph
            )
        )

    return simulate
