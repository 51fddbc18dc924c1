"""A guess judged by the local training that was in use."""

from __future__ import annotations

import math

from torch import Tensor

from leakgauge.core import Observation, Reconstruction
from leakgauge.federated.dropout import mean_network
from leakgauge.federated.local_steps import interpolated
from leakgauge.federated.withheld import untold
from leakgauge.inversion.distances import Cosine, relative_residual
from leakgauge.inversion.objective import Candidate
from leakgauge.inversion.simulation import simulator


def residual_of(observation: Observation, found: Reconstruction) -> float | None:
    """||u - u*|| / ||u*|| of what a guess would have shared; None where it is no guess of the whole batch.

    Where the local steps are not told, the share that one gradient of it, of any size, leaves unexplained.
    """
    # A label of -1 is one that the attack does not know.
    if found.targets is None or bool((found.targets < 0).any()):
        return None
    observation = mean_network(observation)
    unit = observation.domain.to_unit(found.inputs)
    if untold(observation.training):
        return _aside(observation, unit, found.targets)
    simulated = simulator(observation, create_graph=False)(unit, found.targets)
    return float(relative_residual(simulated, observation.update.tensors))


def _aside(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """The part of the update that no multiple of one gradient in the middle of the way explains."""
    seen = interpolated(observation, 0.5)
    simulated = simulator(seen, create_graph=False)(unit, targets)
    cosine = 1 - float(Cosine()(Candidate(unit, targets, simulated, seen.update.tensors)))
    return math.sqrt(max(0.0, 1 - cosine**2))
