"""Rounds of proposed directions, until B of them explain a ReLU layer's gradient, one for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.relu_layer import Factors, consistency, from_patterns, patterns
from leakgauge.analytic.sparse_directions import Allowed, settle, sortable

Propose = Callable[[Allowed], Tensor]
"""Function that proposes directions (N, B).

Its argument holds the patterns that the examples not yet found can have.
"""


@dataclass(frozen=True)
class Belief:
    """Thresholds that directions must reach.

    Args:
        sorted: Fraction of outputs that a plane must separate correctly into zero and not zero, for
            one direction.
        agreed: Fraction of (example, output) pairs that must agree with the layer, for all B
            directions together.
    """

    sorted: float
    agreed: float


CLEAN, IN_NOISE = Belief(0.995, 0.999), Belief(0.97, 0.97)
"""Thresholds of a proof, for gradients without noise and with noise. Below 1, they allow for noise in the planes."""
LOOSE = Belief(0.8, 0.8)
"""Thresholds if local steps moved the layer, or if noise hides zeros. The result is then likely, but not proven."""
HOPELESS = 20
"""The search ends if it found no direction in this number of rounds."""
BEYOND = 3
"""Number of zero outputs that a direction needs beyond B - 1. Any direction can be chosen to have B - 1 zeros."""
SAME = 0.99999
"""Cosine above which two directions are the same."""
INDEPENDENT = 1e-6
"""Least distance of a new unit direction from the span of the directions found."""
PATIENCE = 5
"""After this number of rounds without a new direction, half of the directions found are dropped."""


@dataclass(frozen=True)
class Search:
    """State of the search.

    Args:
        directions: (k, B) directions found, k <= B.
        agreement: Fraction of pairs on which B directions agree with the layer. 0 if k < B.
        rounds: Number of rounds spent.
    """

    directions: Tensor
    agreement: float
    rounds: int

    @property
    def whole(self) -> bool:
        """Whether there is a direction for each example."""
        return self.directions.shape[0] == self.directions.shape[1]


def search(
    factors: Factors,
    propose: Propose,
    *,
    belief: Belief,
    rounds: int,
    generator: torch.Generator,
    tell: Callable[[float, Search], None],
) -> Search:
    """Return the best directions found in rounds of proposing, settling and verifying.

    The search ends when B directions agree with the layer, when all rounds are spent, or when the
    first HOPELESS rounds found no direction.

    Args:
        factors: The factorization of the gradient.
        propose: Source of new directions.
        belief: Thresholds that directions must reach.
        rounds: Largest number of rounds.
        generator: Source of the draws.
        tell: Receives, after each round, the fraction of the rounds that is spent and the best
            result so far.
    """
    if factors.batch == 1:
        return Search(torch.ones((1, 1), dtype=torch.float64), 1.0, 0)
    found = torch.zeros((0, factors.batch), dtype=torch.float64)
    best, idle = Search(found, 0.0, 0), 0
    for spent in range(1, rounds + 1):
        allowed = Allowed.beside(factors, found)
        grown = extend(factors, found, propose(allowed), allowed, belief)
        idle = 0 if len(grown) > len(found) else idle + 1
        found, agreed = grown, 0.0
        if len(found) == factors.batch - 1:
            found = torch.cat([found, last_one(factors, found)])
        if len(found) == factors.batch:
            found, agreed = repair(factors, found, belief)
        if (len(found), agreed) > (len(best.directions), best.agreement):
            best = Search(found, agreed, spent)
        tell(spent / rounds, best)
        if agreed >= belief.agreed:
            return best
        if spent == HOPELESS and not len(best.directions):
            return Search(best.directions, 0.0, spent)
        if idle == PATIENCE or len(found) == factors.batch:
            # A wrong direction among those found excludes the rest. Nothing shows which one is
            # wrong, so a random half is kept.
            keep = torch.randperm(len(found), generator=generator)[: len(found) // 2]
            found, idle = found[keep], 0
    return Search(best.directions, best.agreement, rounds)


def strict(factors: Factors) -> Belief:
    """Return the thresholds of a proof, given the noise of the layer's gradient."""
    return CLEAN if factors.clean else IN_NOISE


def extend(
    factors: Factors, found: Tensor, proposed: Tensor, allowed: Allowed, belief: Belief
) -> Tensor:
    """Return `found`, followed by those of the proposed directions (N, B) that their zeros prove, the surest first."""
    proposed = settle(factors, distinct(proposed))
    zero = factors.zeros(proposed)
    count = zero.sum(1)
    many = count >= factors.batch - 1 + BEYOND
    proposed, zero, count = proposed[many], zero[many], count[many]
    if not len(proposed):
        return found
    sure = sortable(allowed.planes, zero)
    order = (sure + count / (100 * zero.shape[1])).argsort(descending=True, stable=True)
    for i in order.tolist():
        if len(found) == factors.batch:
            break
        if sure[i] >= belief.sorted and is_new(proposed[i], found):
            found = torch.cat([found, proposed[i].unsqueeze(0)])
    return found


def last_one(factors: Factors, found: Tensor) -> Tensor:
    """Return the one missing direction (1, B). The other B - 1 directions determine the pattern of its example."""
    plane = torch.linalg.svd(found, full_matrices=True).Vh[-1:]
    plane = plane / (plane @ factors.last)
    return from_patterns(factors, plane @ factors.layer.T <= 0)


def repair(factors: Factors, found: Tensor, belief: Belief) -> tuple[Tensor, float]:
    """Return B directions and their agreement, improved by swapping one direction at a time.

    Swapping ends when no swap increases the agreement. If one of B directions is wrong, the pattern
    of its own example is still right, since it follows from the other directions. The right
    direction follows from this pattern.
    """
    agreed = consistency(factors, found)
    while agreed < belief.agreed:
        other = from_patterns(factors, patterns(factors, found)[1])
        swapped = [replace_direction(found, j, other[j]) for j in range(len(found))]
        scores = [consistency(factors, directions) for directions in swapped]
        j = max(range(len(found)), key=scores.__getitem__)
        if scores[j] <= agreed:
            break
        found, agreed = swapped[j], scores[j]
    return found, agreed


def replace_direction(found: Tensor, j: int, direction: Tensor) -> Tensor:
    """Return `found` (B, B) with another direction (B,) at index j."""
    return torch.cat([found[:j], direction.unsqueeze(0), found[j + 1 :]])


def distinct(directions: Tensor) -> Tensor:
    """Return the directions (N, B) without repetitions, in their order."""
    equal = (directions @ directions.T).abs() > SAME
    return directions[~equal.tril(-1).any(1)]


def is_new(direction: Tensor, found: Tensor) -> bool:
    """Return whether a direction (B,) is independent of the directions found (k, B)."""
    if not len(found):
        return True
    if float((found @ direction).abs().max()) > SAME:
        return False
    basis = torch.linalg.qr(found.T).Q
    return float((direction - basis @ (basis.T @ direction)).norm()) > INDEPENDENT
