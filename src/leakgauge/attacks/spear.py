"""SPEAR: whole batches through a linear layer that a ReLU follows, from sparse directions of its gradient."""

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
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import status_of
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.targets import solved_targets
from leakgauge.output import UnevenWeights

MOST = 25
"""Largest batch size of an exact search. It is the paper's."""
WIDEST = (0.5, 0.05)
"""First values of the width e in the loss `log(u^2 + e^2)` of the reweighted steps. Successive rounds take turns.

A narrow start separates directions that lie close together, as the directions of two classes do.
"""


@dataclass(frozen=True, kw_only=True)
class ReluSearch(BaseAttack):
    """The base of SPEAR and SPEAR++. A subclass says how directions are proposed.

    Args:
        rounds: Largest number of rounds of proposals, at least 1.
    """

    rounds: Count = 200

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        found = relu_entry(observation)
        if isinstance(found, Inapplicable):
            return found
        # One backward pass per class finds the labels, and one compares the update.
        evaluations = (observation.classes or 0) + 1
        averaged = mean_network(observation)
        return Plan(evaluations=evaluations, search=partial(self.search, averaged, found))

    def search(
        self, observation: Observation, found: LinearEntry, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return the batch that follows from the directions found, with its labels and residual."""
        with seeds.isolated("simulation"):
            factors = factors_of(observation, found)
            if isinstance(factors, Inapplicable):
                return report_nothing_found(observation, Status.INAPPLICABLE, factors.reason)

            def finish_early(result: Search) -> Reconstruction:
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
                    tell=partial(_report, progress, finish_early, turn),
                )
                if result.whole:
                    return finish(observation, found, factors, result)
        message = (
            f"{len(result.directions)} of {factors.batch} sparse directions found after {result.rounds} "
            "rounds, and the inputs need all of them: try more rounds or another seed"
        )
        return report_nothing_found(observation, Status.UNCONVERGED, message)

    @abstractmethod
    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Return the function that proposes directions in each round."""


@dataclass(frozen=True, kw_only=True)
class Spear(ReluSearch):
    r"""Recover whole batches exactly, through a wide first linear layer that a ReLU follows.

    Use it for batches of up to 25 examples. The labels may be any, and need not be known. The layer
    needs more outputs than the batch has examples, and works better the wider it is. Strong noise or
    coarse rounding of the update stops the attack.

    .. math::

        \frac{\partial \ell}{\partial W} = \Delta^\top X = L R, \qquad \Delta^\top = L Q, \qquad X = Q^{-1} R

    Here :math:`X` holds the :math:`B` inputs of the layer, one per row. Each row of :math:`\Delta`
    is the gradient of the loss :math:`\ell` at the layer's output for one example. The gradient has
    rank :math:`B`, and its singular value decomposition gives :math:`L` and :math:`R`. Only
    :math:`Q`, of shape (B, B), is unknown.

    A ReLU leaves about half of :math:`\Delta` at 0. So each column :math:`q` of :math:`Q` is a
    direction for which :math:`L q` is sparse. A candidate :math:`q` is the null vector of
    :math:`B - 1` rows of :math:`L`, drawn at random. A candidate is kept if :math:`L q` is sparse,
    and :math:`B` independent ones make :math:`Q`. Their scales follow from
    :math:`\partial \ell / \partial b`.

    In the paper, about one draw in :math:`2^{B - 1}` gives a sparse direction. Two parts are ours:

    - A draw only has to come near a sparse direction. A few steps of reweighted least squares lead
      it there. They prefer patterns of zeros that the layer's known weights can make.
    - Each direction is checked alone: the zeros of :math:`L q` are compared with the signs of the
      layer's outputs. So a wrong direction is detected before :math:`Q` is complete, and each right
      one narrows the search for the others.

    Args:
        rounds: Largest number of rounds, at least 1. The default is ours.
        samples: Number of draws in each round, at least 1. The default is ours.
        steps: Number of reweighted steps after each draw, at least 1. The default is ours.

    References:
        Dimitrov, Baader, Müller, Vechev. SPEAR: Exact Gradient Inversion of Batches in Federated
        Learning. NeurIPS 2024, sections 3.1 to 3.3. arXiv:2403.03945.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=4)
        >>> attack = lg.attacks.Spear()
        >>> attack(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
    """

    samples: Count = 128
    steps: Count = 60

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        batch = observation.knowledge.batch_size or 1
        if batch > MOST:
            return Inapplicable(
                f"batch {batch} > {MOST}, the largest of an exact search: try spear_plus_plus"
            )
        return super().prepare(observation)

    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Return a function that proposes null vectors of sampled rows, each moved to a sparse direction nearby."""
        turns = cycle(WIDEST)

        def propose(allowed: Allowed) -> Tensor:
            # Half of the draws take all outputs with equal probability. The others prefer outputs
            # that some input leaves below zero.
            _, weights = allowed.draw(factors, self.samples, generator)
            weights[::2] = 1.0
            drawn = null_vectors(factors, self.samples, generator, weights)
            return descend(
                factors, drawn, steps=self.steps, widest=next(turns), planes=allowed.planes
            )

        return propose


def _report(
    progress: Progress,
    finish_early: Callable[[Search], Reconstruction],
    turn: int,
    fraction: float,
    result: Search,
) -> None:
    """Report the progress after a round. The comparison of the update takes the last 5% of it.

    Args:
        progress: Takes the progress.
        finish_early: Builds the reconstruction of a complete result.
        turn: Index of the search, 0 or 1.
        fraction: Fraction of this search's rounds that are done.
        result: The directions so far.
    """
    best = partial(finish_early, result) if result.whole else None
    progress(Moment(0.475 * (turn + fraction), best=best))


def finish(
    observation: Observation, entry: LinearEntry, factors: Factors, result: Search
) -> Reconstruction:
    """Return the reconstruction that B directions give: inputs, labels and the residual of the update."""
    features, delta = separate(factors, result.directions, entry.layer.out_features)
    # The domain's range is public, so that a value outside it must be noise.
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
            f"the zeros of the layer's gradient agree with the signs of its outputs in {result.agreement:.2%} "
            f"of all entries after {result.rounds} rounds"
        ),
        residual=residual,
        cost=Cost(evaluations),
    )


def labels_of(
    observation: Observation, entry: LinearEntry, unit: Tensor, delta: Tensor
) -> tuple[Tensor | None, int]:
    """Return the class of each example, and the number of classes that were tried.

    It is the class whose gradient is closest to the example's delta. The classes are None if the
    loss has no classes or a delta is not finite.

    Args:
        observation: The observation.
        entry: The first linear layer.
        unit: The examples `(B, *shape)` in unit coordinates.
        delta: The gradient of the loss at the layer's output for each example, (B, O).
    """
    contribution = entry.contribution
    # The weight of an example in the update may be unknown. Then the direction of its gradient
    # gives its label.
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
