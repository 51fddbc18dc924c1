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

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.explanation import explain
from leakgauge.analytic.linear import LinearEntry, deltas
from leakgauge.analytic.relu_layer import Factors, factors_of, relu_entry, separate
from leakgauge.analytic.relu_search import LOOSE, Propose, Search, search, strict
from leakgauge.analytic.sparse_directions import Allowed, descend, null_vectors
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Moment,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.targets import solved_targets
from leakgauge.output import UnevenWeights

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

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        found = relu_entry(observation)
        if isinstance(found, Inapplicable):
            return found
        # One backward pass for each class, to read the labels, and one to compare the update.
        evaluations = (observation.classes or 0) + 1
        seen = mean_network(observation)
        return Plan(evaluations=evaluations, search=partial(self.search, seen, found))

    def search(
        self, observation: Observation, found: LinearEntry, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return the batch that the directions found make, with its labels and its residual."""
        with seeds.isolated("simulation"):
            factors = factors_of(observation, found)
            if isinstance(factors, Inapplicable):
                return nothing_found(observation, Status.INAPPLICABLE, factors.reason)

            def finished(result: Search) -> Reconstruction:
                with seeds.isolated("simulation"):
                    return finish(observation, found, factors, result)

            generator = seeds.generator("directions")
            for turn, belief in enumerate((strict(factors), LOOSE)):
                result = search(
                    factors,
                    self.proposer(factors, generator),
                    belief=belief,
                    rounds=self.rounds,
                    generator=generator,
                    tell=partial(_tell, progress, finished, turn),
                )
                if result.whole:
                    return finish(observation, found, factors, result)
        message = (
            f"{len(result.directions)} of {factors.batch} sparse directions after {result.rounds} "
            "rounds, and inputs need all: more rounds, or another seed"
        )
        return nothing_found(observation, Status.UNCONVERGED, message)

    @abstractmethod
    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Return the function that proposes the directions of a round."""


@dataclass(frozen=True, kw_only=True)
class Spear(ReluSearch):
    """Whole batches, exactly, whatever the labels, through a linear first layer followed by ReLU.

    `samples` submatrices a round, each followed by `steps` reweighted steps; up to `rounds` rounds.
    """

    samples: Count = 128
    steps: Count = 60

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        batch = observation.knowledge.batch_size or 1
        if batch > MOST:
            return Inapplicable(f"batch {batch} > {MOST} for exact search")
        return super().prepare(observation)

    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Propose null vectors of sampled submatrices, each led to the sparse direction near it."""
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


def _tell(
    progress: Progress,
    finished: Callable[[Search], Reconstruction],
    turn: int,
    fraction: float,
    result: Search,
) -> None:
    """Tell the moment after a round of the search number `turn`, of two. The last 5% are the comparison."""
    best = partial(finished, result) if result.whole else None
    progress(Moment(0.475 * (turn + fraction), best=best))


def finish(
    observation: Observation, entry: LinearEntry, factors: Factors, result: Search
) -> Reconstruction:
    """Return the inputs and labels of B directions, with their residual of the update."""
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
        cost=Cost(evaluations),
    )


def labels_of(
    observation: Observation, entry: LinearEntry, unit: Tensor, delta: Tensor
) -> tuple[Tensor | None, int]:
    """Return the class (B,) that causes each example's delta (B, O) best, and how many classes were tried.

    The first is None if the loss knows no classes, or a delta is no number.
    """
    contribution = entry.contribution
    # How much an example adds may not be known. The direction of what it causes then tells its label.
    uneven = isinstance(contribution, UnevenWeights)
    if isinstance(contribution, UnevenWeights):
        contribution = contribution.directions
    if isinstance(contribution, Inapplicable):
        return None, 0
    tried = list(range(contribution.classes))
    granted = observation.knowledge.labels
    if granted is not None and not granted.is_floating_point() and granted.ndim == 1:
        tried = sorted(set(granted.tolist()))
    aim = normalize(delta, dim=1) if uneven else delta
    caused = partial(deltas, observation.domain, entry, contribution, unit)

    def cause(label: int) -> Tensor:
        return normalize(caused(label), dim=1) if uneven else caused(label)

    def misfit(caused: Tensor) -> Tensor:
        apart: Tensor = (caused - aim).norm(dim=1)
        return apart

    labels = explain(cause, misfit, tried).labels
    return (labels if bool((labels >= 0).all()) else None), len(tried)
