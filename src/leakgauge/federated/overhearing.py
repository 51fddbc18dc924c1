"""What one node of a gossip can tell of another's gradient. After Mrini, Cyffers, Bellet: ICML 2024, section 4.

Messages are linear in the models and steps of all nodes, with weights that are known. With a the listener,
o all other nodes, y their models at the first round heard, h = eta g, all less the listener's first model:

    x_o(0) = y        m_o(t) = x_o(t) - h_o(t)        x_o(t + 1) = W_oo m_o(t) + W_oa m_a(t)

The listener hears the rows of its neighbors, and knows its own. That is fewer equations than unknowns, so
steps are taken to change little from round to round. The paper takes them to stay the same; here they are
Gaussian (ours), correlated by `persistence` from one round to the next and by `likeness` between nodes, y of
spread `apart`: the least squares solution is then the posterior mean, exact wherever the equations
determine it alone. The three numbers are those under which what was heard is the likeliest. Listening
from the first round of all, when all nodes have one model, y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

PERSISTENCE = (0.3, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999)
LIKENESS = (0.0, 0.3, 0.6, 0.9, 0.97)
APART = (0.1, 0.3, 1.0, 3.0)
ROUNDING = 2.0**-24
"""Relative rounding of what is sent in float32."""


@dataclass(frozen=True)
class View:
    """All that one node holds of a gossip: mixing weights, its own models and messages, its neighbors' messages.

    mixing (N, N); own_models and own_messages (T, d); heard (T, neighbors, d), of `neighbors` in order.
    `from_start` says whether round 0 is the first of all, when all models are equal.
    """

    mixing: Tensor
    own: int
    neighbors: tuple[int, ...]
    own_models: Tensor
    own_messages: Tensor
    heard: Tensor
    from_start: bool


@dataclass(frozen=True)
class Estimate:
    """A node's model (d,) before, and step eta g (d,) in, the round best told, counted from the first heard.

    `uncertainty` is what the equations leave open of the step: 0 nothing, 1 all of it.
    """

    model: Tensor
    step: Tensor
    round: int
    uncertainty: float


@dataclass(frozen=True)
class Equations:
    """Everything as matrix times unknowns (y, h(0), .., h(T - 1)) plus what is known; steps of all N nodes.

    models (T, others, U) and offsets (T, others, d) of what others' models are; seen (R, U) times the
    unknowns is right (R, d).
    """

    models: Tensor
    offsets: Tensor
    seen: Tensor
    right: Tensor


def estimate(view: View, victim: int) -> Estimate:
    """The victim's model and step in the round that the view tells best: float64."""
    rounds, nodes = len(view.heard), len(view.mixing)
    others = [node for node in range(nodes) if node != view.own]
    equations = written_out(view, others)
    prior = likeliest(view, equations)
    gain, covariance = explained(prior, equations.seen, floor(view))
    unknowns = gain @ equations.right
    start = len(prior) - rounds * nodes
    steps = [start + t * nodes + victim for t in range(rounds)]
    open_share = (covariance.diagonal()[steps] / prior.diagonal()[steps]).clamp(0, 1).sqrt()
    best = int(open_share.argmin())
    place = others.index(victim)
    model = equations.models[best, place] @ unknowns + equations.offsets[best, place]
    reference = view.own_models[0].double()
    return Estimate(reference + model, unknowns[steps[best]], best, float(open_share[best]))


def written_out(view: View, others: list[int]) -> Equations:
    """The equations of all rounds."""
    rounds, nodes, count = len(view.heard), len(view.mixing), len(others)
    free = 0 if view.from_start else count
    width = free + rounds * nodes
    identity = torch.eye(width, dtype=torch.float64)
    among = view.mixing[others][:, others]
    from_own = view.mixing[others, view.own].unsqueeze(1)
    rows = [others.index(node) for node in view.neighbors]
    reference = view.own_models[0].double()
    model = torch.zeros((count, width), dtype=torch.float64)
    model[:, :free] = torch.eye(count, dtype=torch.float64)[:, :free]
    offset = torch.zeros((count, len(reference)), dtype=torch.float64)
    models, offsets, seen, right = [], [], [], []
    for t in range(rounds):
        models.append(model)
        offsets.append(offset)
        own_model, own = view.own_models[t].double(), view.own_messages[t].double()
        at_round = identity[free + t * nodes : free + (t + 1) * nodes]
        message = model - at_round[others]
        seen += [message[rows], at_round[view.own : view.own + 1]]
        right += [view.heard[t].double() - reference - offset[rows], (own_model - own)[None]]
        model = among @ message
        offset = among @ offset + from_own * (own - reference)
    return Equations(torch.stack(models), torch.stack(offsets), torch.cat(seen), torch.cat(right))


def likeliest(view: View, equations: Equations) -> Tensor:
    """The prior covariance (U, U), up to scale, under which the right sides are the likeliest."""
    rounds, nodes = len(view.heard), len(view.mixing)
    gram = equations.right @ equations.right.T / equations.right.shape[1]
    noise = floor(view) * torch.eye(len(gram), dtype=torch.float64)
    apart = (1.0,) if view.from_start else APART
    best, chosen = -torch.inf, torch.empty(0)
    for persistence, likeness, spread in product(PERSISTENCE, LIKENESS, apart):
        steps = covariance_of(persistence, likeness, rounds, nodes)
        prior = spread**2 * torch.eye(equations.seen.shape[1], dtype=torch.float64)
        prior[-len(steps) :, -len(steps) :] = steps
        factor = torch.linalg.cholesky(equations.seen @ prior @ equations.seen.T + noise)
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
    """The variance of rounding in what was heard, in units of the steps': the listener's own tell those."""
    steps = (view.own_models - view.own_messages).double().square().mean()
    rounding = ROUNDING**2 * view.heard.double().square().mean()
    return float(rounding / steps.clamp_min(torch.finfo(torch.float64).tiny)) + 1e-14


__all__ = ["Estimate", "View", "estimate"]
