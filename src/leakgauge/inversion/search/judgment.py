"""What a guess is worth: judged by the local training that was in use, and what to return where there is none."""

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
from leakgauge.federated.training.local_steps import interpolated
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion.descents.descent import Identification
from leakgauge.inversion.objectives.distances import MATCHED, Cosine, relative_residual
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.objectives.objective import Candidate
from leakgauge.inversion.simulation.simulator import drop_misleading, simulator
from leakgauge.output import contribution_of


def residual_of(observation: Observation, found: Reconstruction) -> float | None:
    """||u - u*|| / ||u*|| of what a guess would have shared; None where it is no guess of the whole batch.

    Where the local steps are not told, the share that one gradient of it, of any size, leaves unexplained.
    """
    # A label of -1 is one that the attack does not know.
    if found.targets is None or bool((found.targets < 0).any()):
        return None
    observation = drop_misleading(mean_network(observation))
    if space_of(observation.domain).discrete:
        # Valid examples are simulated as the client trains on them, not as a search sees them.
        observation = replace(observation, domain=AsGiven(observation.domain))
    unit = observation.domain.to_unit(found.inputs)
    if is_withheld(observation.training):
        return _aside(observation, unit, found.targets)
    simulated = simulator(observation, create_graph=False)(unit, found.targets)
    return float(relative_residual(simulated, observation.update.tensors))


def _aside(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """The part of the update that no multiple of one gradient in the middle of the way explains."""
    seen = interpolated(observation, 0.5)
    simulated = simulator(seen, create_graph=False)(unit, targets)
    cosine = 1 - float(Cosine()(Candidate(unit, targets, simulated, seen.update.tensors)))
    return math.sqrt(max(0.0, 1 - cosine**2))


def status_of(
    observation: Observation,
    unit: Tensor,
    targets: Tensor | None,
    residual: float | None,
    *,
    proven: bool,
) -> Status:
    """Return the status that the residual of the whole update allows. proven: the method's own checks all passed.

    An example that the network is sure of hardly moves the update, so a small residual says little of it. A certified
    batch matches the update to CERTIFIED_WITHIN of the part of its faintest example.
    """
    if targets is None or residual is None or residual > CONVERGED_WITHIN:
        return Status.UNCONVERGED
    if proven and residual <= CERTIFIED_WITHIN * faintest(observation, unit, targets):
        return Status.CERTIFIED
    return Status.CONVERGED


def faintest(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """Return the norm of the least example's part of the simulated gradient, relative to the whole.

    It is 1 for one example, and 0 if parts are not told apart: examples that meet in the model, or a loss of unknown
    reduction.
    """
    if len(unit) == 1:
        return 1.0
    if targets.ndim > 1 or targets.is_floating_point() or entangled(observation):
        return 0.0
    # Class weights divide by those of the batch's labels, which are judged here as if they were known.
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
    return float(torch.stack([t.detach().double().norm() for t in tensors.values()]).norm())


def objective_of(found: Reconstruction) -> float:
    """Return the attacker's objective at what is returned, or infinity if the search found nothing."""
    return found.objectives[found.restart] if found.objectives else math.inf


def least_objective(known: Sequence[float], objective: float | None) -> float | None:
    """Return the least of known objectives and of the one under way, or None if none is finite."""
    least = min([*known, math.inf if objective is None else objective])
    return least if math.isfinite(least) else None


def diagnose(seen: Identification | None, residual: float) -> Diagnosis | None:
    """The verdict on a batch, where the descent looked at the Jacobian."""
    if seen is None:
        return None
    verdict: Literal["recovered", "collision", "stalled", "undecided"] = "recovered"
    if residual > MATCHED:
        verdict = "stalled"
    elif seen.rank < seen.unknowns:
        verdict = "collision"
    elif not seen.exact:
        verdict = "undecided"
    return Diagnosis(verdict, seen.rank, seen.unknowns, seen.condition, seen.exact)
