"""Rounds of proposed directions until B of them, one for each example, explain a ReLU layer's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.relu_layer import Factors, consistency, from_patterns, patterns
from leakgauge.analytic.sparse_directions import Allowed, settle, sortable

Propose = Callable[[Allowed], Tensor]
"""From what those found so far leave open to new directions (N, B)."""


@dataclass(frozen=True)
class Belief:
    """Shares of outputs: `sorted` by a plane for a direction to be believed; `agreed` at the end, of all examples."""

    sorted: float
    agreed: float


CLEAN, IN_NOISE = Belief(0.995, 0.999), Belief(0.97, 0.97)
"""All, but for noise in the planes."""
LOOSE = Belief(0.8, 0.8)
"""Where the layer has moved in local steps, or noise hides zeros: likely, not proven."""
HOPELESS = 20
"""Rounds that find no direction at all, after which none will."""
BEYOND = 3
"""Outputs that must be zero beyond the B - 1 that any direction can be made to have."""
SAME = 0.99999
"""Cosine above which two directions are one."""
INDEPENDENT = 1e-6
PATIENCE = 5
"""Rounds without a new direction, after which half of those believed are doubted."""


@dataclass(frozen=True)
class Search:
    """Directions found (k, B), k <= B; how far they agree with the layer where k is B; rounds spent."""

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
    """Propose, settle, verify, until B directions agree with the layer, or the rounds are spent or hopeless.

    tell: is given, after each round, the fraction of the rounds that is spent, and the best result so far.
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
            # A wrong one among them shuts out the rest: which one, nothing tells.
            keep = torch.randperm(len(found), generator=generator)[: len(found) // 2]
            found, idle = found[keep], 0
    return Search(best.directions, best.agreement, rounds)


def strict(factors: Factors) -> Belief:
    """What proves a direction, given the noise of the layer's gradient."""
    return CLEAN if factors.clean else IN_NOISE


def extend(
    factors: Factors, found: Tensor, proposed: Tensor, allowed: Allowed, belief: Belief
) -> Tensor:
    """`found` and those of the proposed (N, B) that are proven by their zeros, the surest first."""
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
    """The direction (1, B) beside B - 1: its example is the one that they leave, and has its own pattern."""
    plane = torch.linalg.svd(found, full_matrices=True).Vh[-1:]
    plane = plane / (plane @ factors.last)
    return from_patterns(factors, plane @ factors.layer.T <= 0)


def repair(factors: Factors, found: Tensor, belief: Belief) -> tuple[Tensor, float]:
    """B directions, and their agreement, after swapping one at a time while that agrees better.

    With one wrong direction of B, the pattern of its own example is still right, since that follows
    from the others; and from it the right direction.
    """
    agreed = consistency(factors, found)
    while agreed < belief.agreed:
        other = from_patterns(factors, patterns(factors, found)[1])
        swapped = [replaced(found, j, other[j]) for j in range(len(found))]
        scores = [consistency(factors, directions) for directions in swapped]
        j = max(range(len(found)), key=scores.__getitem__)
        if scores[j] <= agreed:
            break
        found, agreed = swapped[j], scores[j]
    return found, agreed


def replaced(found: Tensor, j: int, direction: Tensor) -> Tensor:
    """`found` (B, B) with another direction (B,) in place j."""
    return torch.cat([found[:j], direction.unsqueeze(0), found[j + 1 :]])


def distinct(directions: Tensor) -> Tensor:
    """One of each group of equal directions (N, B), in their order."""
    alike = (directions @ directions.T).abs() > SAME
    return directions[~alike.tril(-1).any(1)]


def is_new(direction: Tensor, found: Tensor) -> bool:
    """Whether a direction (B,) is none of those found (k, B), nor a combination of them."""
    if not len(found):
        return True
    if float((found @ direction).abs().max()) > SAME:
        return False
    basis = torch.linalg.qr(found.T).Q
    return float((direction - basis @ (basis.T @ direction)).norm()) > INDEPENDENT
