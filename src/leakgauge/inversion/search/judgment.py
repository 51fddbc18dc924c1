"""How well a reconstruction explains the update, by the local training that was in use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import (
    CERTIFIED_WITHIN,
    CONVERGED_WITHIN,
    AsGiven,
    Diagnosis,
    Inapplicable,
    Observation,
    Reconstruction,
    Status,
    Tensors,
    space_of,
)
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.local_steps import interpolate
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion.descents.descent import Identification
from leakgauge.inversion.objectives.distances import MATCHED, Cosine, relative_residual
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.objectives.objective import Candidate
from leakgauge.inversion.simulation.simulator import drop_misleading, simulator
from leakgauge.output import contribution_of


def residual_of(observation: Observation, found: Reconstruction) -> float | None:
    """Return `|u - u*| / |u*|` of the update u that a reconstruction would have shared.

    If the hyperparameters of the local training are not known, return the fraction of the update
    that no multiple of one gradient explains. Return None if the reconstruction lacks a target of
    the batch.
    """
    # A label of -1 means that the attack does not know the label.
    if found.targets is None or bool((found.targets < 0).any()):
        return None
    observation = drop_misleading(mean_network(observation))
    if space_of(observation.domain).discrete:
        # The client trains on valid examples, not on points of the search space.
        observation = replace(observation, domain=AsGiven(observation.domain))
    unit = observation.domain.to_unit(found.inputs)
    if is_withheld(observation.training):
        return _unexplained(observation, unit, found.targets)
    simulated = simulator(observation, create_graph=False)(unit, found.targets)
    return float(relative_residual(simulated, observation.update.tensors))


def _unexplained(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """Return the fraction of the update that no multiple of one gradient at the middle model explains."""
    midway = interpolate(observation, 0.5)
    simulated = simulator(midway, create_graph=False)(unit, targets)
    cosine = 1 - float(Cosine()(Candidate(unit, targets, simulated, midway.update.tensors)))
    return math.sqrt(max(0.0, 1 - cosine**2))


def status_of(
    observation: Observation,
    unit: Tensor,
    targets: Tensor | None,
    residual: float | None,
    *,
    proven: bool,
) -> Status:
    r"""Return the status that the residual of the whole update allows.

    An example that the network is sure of hardly changes the update, so a small residual says
    little about it. A certified batch therefore matches the update to CERTIFIED_WITHIN of the part
    of its faintest example.

    Args:
        observation: The observation.
        unit: Inputs (B, \*shape) in unit coordinates.
        targets: Targets (B,) or (B, K), or None if they are not known.
        residual: Relative residual of the update, or None if it is not known.
        proven: Whether the method's own checks all passed.
    """
    if targets is None or residual is None or residual > CONVERGED_WITHIN:
        return Status.UNCONVERGED
    if proven and residual <= CERTIFIED_WITHIN * faintest(observation, unit, targets):
        return Status.CERTIFIED
    return Status.CONVERGED


def faintest(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """Return the least norm of one example's part of the simulated gradient, relative to the whole.

    It is 1 for one example. It is 0 if the parts cannot be separated, because the model mixes
    examples or the reduction of the loss is not known.
    """
    if len(unit) == 1:
        return 1.0
    if targets.ndim > 1 or targets.is_floating_point() or entangled(observation):
        return 0.0
    # With class weights, the loss divides by the weights of the batch's labels. Here the recovered
    # labels stand for them.
    knowledge = replace(observation.knowledge, labels=targets, label_counts=None)
    contribution = contribution_of(replace(observation, knowledge=knowledge))
    if isinstance(contribution, Inapplicable):
        return 0.0
    inputs = observation.domain.from_unit(unit).detach()
    model, loss, train = observation.model, observation.loss, FedSGD()
    targets = targets.to(inputs.device)
    whole = _norm(train(model, loss, inputs, targets)) * contribution.size
    parts = [
        _norm(train(model, loss, inputs[i : i + 1], targets[i : i + 1]))
        * contribution.factor(1, int(label))
        for i, label in enumerate(targets)
    ]
    return min(parts) / whole if whole > 0 else 0.0


def _norm(tensors: Tensors) -> float:
    """Return the Euclidean norm of all tensors."""
    return float(torch.stack([t.detach().double().norm() for t in tensors.values()]).norm())


def objective_of(found: Reconstruction) -> float:
    """Return the attacker's objective at the reconstruction, or infinity if the search found nothing."""
    return found.objectives[found.restart] if found.objectives else math.inf


def least_objective(known: Sequence[float], objective: float | None) -> float | None:
    """Return the least of the known objectives and the present one, or None if none is finite."""
    least = min([*known, math.inf if objective is None else objective])
    return least if math.isfinite(least) else None


def diagnose(identification: Identification | None, residual: float) -> Diagnosis | None:
    """Return the diagnosis of a batch, or None if the descent computed no Jacobian."""
    if identification is None:
        return None
    verdict: Literal["recovered", "collision", "stalled", "undecided"] = "recovered"
    if residual > MATCHED:
        verdict = "stalled"
    elif identification.rank < identification.unknowns:
        verdict = "collision"
    elif not identification.exact:
        verdict = "undecided"
    return Diagnosis(
        verdict,
        identification.rank,
        identification.unknowns,
        identification.condition,
        identification.exact,
    )
