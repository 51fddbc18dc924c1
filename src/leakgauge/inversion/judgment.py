"""A guess judged by the local training that was in use."""

from __future__ import annotations

from leakgauge.core import Observation, Reconstruction
from leakgauge.federated.dropout import mean_network
from leakgauge.inversion.distances import relative_residual
from leakgauge.inversion.simulation import simulator


def residual_of(observation: Observation, found: Reconstruction) -> float | None:
    """||u - u*|| / ||u*|| of what a guess would have shared; None where it is no guess of the whole batch."""
    # A label of -1 is one that the attack does not know.
    if found.targets is None or bool((found.targets < 0).any()):
        return None
    observation = mean_network(observation)
    unit = observation.domain.to_unit(found.inputs)
    simulated = simulator(observation, create_graph=False)(unit, found.targets)
    return float(relative_residual(simulated, observation.update.tensors))
