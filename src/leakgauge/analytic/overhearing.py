"""What one node of a gossip can tell of another's gradient. After Mrini, Cyffers, Bellet: ICML 2024, section 4.

Messages are linear in the steps h = eta g of all nodes, with weights that are known. Less the model that
all nodes started from, which every one of them knows,

    X(0) = 0        M(t) = X(t) - H(t)        X(t + 1) = W M(t)

of which the listener has its own rows of X and M, and its neighbors' rows of M, from the round on at which it
began. That is fewer equations than unknowns, so steps are taken to change little from round to round. The
paper takes them to stay the same; here they are Gaussian (ours), correlated by `persistence` from one round
to the next and by `likeness` between nodes: the least squares solution is then the posterior mean, exact
wherever the equations determine it alone. Both numbers are those under which what was heard is the likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

PERSISTENCE = (0.3, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999)
LIKENESS = (0.0, 0.3, 0.6, 0.9, 0.97)
ROUNDING = 2.0**-24
"""Relative rounding of what is sent in float32."""
LEAST_NOISE = 1e-10
"""Added to it: equations that follow from one another must not make the least eigenvalue negative by rounding."""


@dataclass(frozen=True)
class View:
    """All that one node holds of a gossip: the first model of all, and what it and its neighbors sent since it listens.

    mixing (N, N); initial (d,); own_models and own_messages (T, d); heard (T, neighbors, d), of
    `neighbors` in order; T rounds, the first of them round `start`.
    """

    mixing: Tensor
    own: int
    neighbors: tuple[int, ...]
    initial: Tensor
    own_models: Tensor
    own_messages: Tensor
    heard: Tensor
    start: int


@dataclass(frozen=True)
class Estimate:
    """A node's model (d,) before, and step eta g (d,) in, the round best told.

    `uncertainty` is what the equations leave open of the step: 0 nothing, 1 all of it.
    """

    model: Tensor
    step: Tensor
    round: int
    uncertainty: float


def estimate(view: View, victim: int) -> Estimate:
    """The victim's model and step in the round that the view tells best: float64."""
    nodes = len(view.mixing)
    models, messages = unrolled(view.mixing, view.start + len(view.heard))
    seen, right = told(view, models, messages)
    noise = floor(view)
    prior = likeliest(nodes, seen, right, noise)
    gain, covariance = explained(prior, seen, noise)
    open_share = covariance.diagonal()[victim::nodes].clamp(0, 1).sqrt()
    best = int(open_share.argmin())
    model = models[best, victim] @ gain @ right
    step = gain[best * nodes + victim] @ right
    return Estimate(view.initial.double() + model, step, best, float(open_share[best]))


def unrolled(mixing: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Models and messages of all rounds, (T, N, T * N) each, as matrices of all steps in order of rounds."""
    nodes = len(mixing)
    steps = torch.eye(rounds * nodes, dtype=torch.float64).view(rounds, nodes, -1)
    models, messages = [torch.zeros_like(steps[0])], []
    for step in steps:
        messages.append(models[-1] - step)
        models.append(mixing @ messages[-1])
    return torch.stack(models[:-1]), torch.stack(messages)


def told(view: View, models: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (R, T * N) and right sides (R, d) of all that was seen."""
    rows = [
        models[view.start :, view.own],
        messages[view.start :, view.own],
        messages[view.start :, list(view.neighbors)].flatten(0, 1),
    ]
    values = torch.cat([view.own_models, view.own_messages, view.heard.flatten(0, 1)]).double()
    matrix, right = torch.cat(rows), values - view.initial.double()
    # The first model of all, seen by one who listened from the start, is no equation.
    kept = matrix.abs().sum(1) > 0
    return matrix[kept], right[kept]


def likeliest(nodes: int, seen: Tensor, right: Tensor, noise: float) -> Tensor:
    """The prior covariance of all steps, up to scale, under which the right sides are the likeliest."""
    gram = right @ right.T / right.shape[1]
    best, chosen = -torch.inf, torch.empty(0)
    for persistence, likeness in product(PERSISTENCE, LIKENESS):
        prior = covariance_of(persistence, likeness, seen.shape[1] // nodes, nodes)
        spread = seen @ prior @ seen.T + noise * torch.eye(len(seen), dtype=torch.float64)
        factor = torch.linalg.cholesky(spread)
        # The scale of the prior is the one that is likeliest for the rest of it.
        scale = torch.cholesky_solve(gram, factor).trace() / len(gram)
        likelihood = -2 * factor.diagonal().log().sum() - len(gram) * scale.log()
        if float(likelihood) > best:
            best, chosen = float(likelihood), prior
    return chosen


def covariance_of(persistence: float, likeness: float, rounds: int, nodes: int) -> Tensor:
    """(T * N, T * N) of steps of unit variance."""
    t = torch.arange(rounds, dtype=torch.float64)
    over_rounds = persistence ** (t.unsqueeze(0) - t.unsqueeze(1)).abs()
    between = likeness + (1 - likeness) * torch.eye(nodes, dtype=torch.float64)
    return torch.kron(over_rounds, between)


def explained(prior: Tensor, seen: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Posterior mean as a matrix (U, R) of the right sides, and posterior covariance (U, U)."""
    cross = prior @ seen.T
    spread = seen @ cross + noise * torch.eye(len(seen), dtype=torch.float64)
    gain = torch.linalg.solve(spread, cross.T).T
    return gain, prior - gain @ cross.T


def floor(view: View) -> float:
    """The variance of rounding in what was heard, in units of the steps': the listener's own tell those, at most 1."""
    steps = float((view.own_models - view.own_messages).double().square().mean())
    rounding = ROUNDING**2 * float(view.heard.double().square().mean())
    return (rounding / steps if steps > rounding else 1.0) + LEAST_NOISE


__all__ = ["Estimate", "View", "estimate"]
