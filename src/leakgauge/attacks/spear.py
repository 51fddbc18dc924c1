"""SPEAR. Dimitrov, Baader, Mueller, Vechev: Exact Gradient Inversion of Batches in Federated Learning,
NeurIPS 2024.

    dL/dW = dL/dZ' X = L R,   dL/dZ' = L Q,   X = Q^-1 R            (section 3.1: rank B, by SVD)
    q: the null vector of B - 1 rows of L, drawn at random            (section 3.2)
    kept where L q is sparse; B independent ones make Q               (section 3.3: greedy, then lambda)
    scales from dL/db                                                 (section 3.2)

A ReLU leaves about half of dL/dZ at 0, so one draw in 2^(B - 1) hits. Ours: a draw need only come near.
A few reweighted steps, which lean toward patterns of zeros that the layer's known weights can make, end in
the sparse direction nearby. lambda (zeros of dL/dZ against signs of Z) is asked of one direction at a
time, so that a wrong one is told before Q is whole, and what is found narrows what is left.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle

import torch
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.linear import LinearEntry, deltas
from leakgauge.analytic.relu_layer import Factors, factors_of, relu_entry, separate
from leakgauge.analytic.relu_search import LOOSE, Propose, Search, search, strict
from leakgauge.analytic.sparse_directions import Allowed, descend, null_vectors
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.targets import solved_targets
from leakgauge.output import Contribution, UnevenWeights

MOST = 25
"""The largest batch of an exact search, as in the paper."""
WIDEST = (0.5, 0.05)
"""Where e starts, by turns: narrow where directions lie close together, as those of two classes do."""

Proposer = Callable[[Factors, torch.Generator], Propose]


@dataclass(frozen=True, kw_only=True)
class ReluSearch(BaseAttack):
    """What SPEAR and SPEAR++ share: all but how directions are proposed, in up to `rounds` rounds."""

    rounds: Count = 200

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def unsuited(self, observation: Observation) -> str | None:
        found = relu_entry(observation)
        return found.reason if isinstance(found, Inapplicable) else None

    def evaluations(self, observation: Observation) -> int:
        # One backward pass for each class, to read the labels, and one to compare the update.
        return (observation.classes or 0) + 1

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        observation = mean_network(observation)
        with seeds.isolated("simulation"):
            return recover(observation, self.proposer, self.rounds, seeds, progress)

    @abstractmethod
    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """What proposes the directions of a round."""


@dataclass(frozen=True, kw_only=True)
class Spear(ReluSearch):
    """Whole batches, exactly, whatever the labels, through a linear first layer followed by ReLU.

    `samples` submatrices a round, each followed by `steps` reweighted steps; up to `rounds` rounds.
    """

    samples: Count = 128
    steps: Count = 60

    def unsuited(self, observation: Observation) -> str | None:
        batch = observation.knowledge.batch_size or 1
        if batch > MOST:
            return f"batch {batch} > {MOST} for exact search"
        return super().unsuited(observation)

    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Null vectors of sampled submatrices, each led to the sparse direction near it."""
        turns = cycle(WIDEST)

        def propose(allowed: Allowed) -> Tensor:
            # Half of them from all outputs alike, half from those that some input leaves below zero.
            _, weights = allowed.draw(factors, self.samples, generator)
            weights[::2] = 1.0
            drawn = null_vectors(factors, self.samples, generator, weights)
            return descend(
                factors, drawn, steps=self.steps, widest=next(turns), planes=allowed.planes
            )

        return propose


def recover(
    observation: Observation, proposer: Proposer, rounds: int, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Factorize, search, separate, read labels, compare: what SPEAR and SPEAR++ share."""
    clock = time.perf_counter()
    found = relu_entry(observation)
    assert isinstance(found, LinearEntry), "inapplicable() refuses this"
    factors = factors_of(observation, found)
    if isinstance(factors, Inapplicable):
        cost = Cost(0, time.perf_counter() - clock)
        return nothing_found(observation, Status.INAPPLICABLE, factors.reason, cost=cost)
    generator = seeds.generator("directions")
    for share, belief in enumerate((strict(factors), LOOSE)):
        result = search(
            factors,
            proposer(factors, generator),
            belief=belief,
            rounds=rounds,
            generator=generator,
            progress=within(progress, 0.475 * share, 0.475),
        )
        if len(result.directions) == factors.batch:
            break
    if len(result.directions) < factors.batch:
        message = (
            f"{len(result.directions)} of {factors.batch} sparse directions after {result.rounds} "
            "rounds, and inputs need all: more rounds, or another seed"
        )
        cost = Cost(0, time.perf_counter() - clock)
        return nothing_found(observation, Status.UNCONVERGED, message, cost=cost)
    return finish(observation, found, factors, result, clock)


def finish(
    observation: Observation, entry: LinearEntry, factors: Factors, result: Search, clock: float
) -> Reconstruction:
    """Inputs and labels of B directions, and what the update says of them."""
    features, delta = separate(factors, result.directions, entry.layer.out_features)
    # The domain's range is public: a value outside it is noise, for certain.
    unit = entry.invert(features).clamp(0, 1)
    targets, evaluations = labels_of(observation, entry, unit, delta)
    like = observation.update.like
    if targets is None:
        targets = solved_targets(observation, unit.to(like))
    residual = None
    if targets is not None:
        simulated = simulator(observation, create_graph=False)(
            unit.to(like), targets.to(like.device)
        )
        residual = float(relative_residual(simulated, observation.update.tensors))
        evaluations += 1
    exact = factors.clean and result.agreement >= strict(factors).agreed
    status = status_of(observation, unit.to(like), targets, residual, proven=exact)
    return Reconstruction(
        inputs=observation.domain.from_unit(unit).to(like),
        targets=targets,
        found=torch.ones(factors.batch, dtype=torch.bool),
        status=status,
        message=(
            f"zeros of the layer's gradient and signs of its outputs agree on {result.agreement:.2%} "
            f"after {result.rounds} rounds"
        ),
        residual=residual,
        cost=Cost(evaluations, time.perf_counter() - clock),
    )


def labels_of(
    observation: Observation, entry: LinearEntry, unit: Tensor, delta: Tensor
) -> tuple[Tensor | None, int]:
    """For each example the class that causes its delta (B, O) best, and how many classes were tried."""
    uneven = isinstance(entry.contribution, UnevenWeights)
    if observation.classes is None or (isinstance(entry.contribution, Inapplicable) and not uneven):
        return None, 0
    tried = list(range(observation.classes))
    granted = observation.knowledge.labels
    if granted is not None and not granted.is_floating_point() and granted.ndim == 1:
        tried = sorted(set(granted.tolist()))
    if uneven:
        # How much each example adds is not known: the direction of what it causes tells its label.
        entry = replace(entry, contribution=Contribution(None, 1.0, 1.0))
        delta = normalize(delta, dim=1)
        caused = [normalize(deltas(observation, entry, unit, label), dim=1) for label in tried]
    else:
        caused = [deltas(observation, entry, unit, label) for label in tried]
    misfit = [(one - delta).norm(dim=1) for one in caused]
    return torch.tensor(tried)[torch.stack(misfit).argmin(0)], len(misfit)
