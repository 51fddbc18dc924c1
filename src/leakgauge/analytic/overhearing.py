"""Estimates of one node's gradient from the messages that another node receives in gossip training.

A node's step is h = eta g, with its learning rate eta and gradient g. Messages are linear in the
steps of all nodes, with known weights. In round t, N nodes have the models X(t) (N, d), the steps
H(t) and the messages M(t). W (N, N) is the mixing matrix. All nodes know the initial model, which
is subtracted:

.. code-block:: text

    X(0) = 0        M(t) = X(t) - H(t)        X(t + 1) = W M(t)

From the round in which it begins to listen, the listener knows its own rows of X and M, and its
neighbors' rows of M. These give fewer equations than unknowns. A prior adds the missing
information: steps change little from round to round.

In the paper, steps are constant. Here they are Gaussian, which is ours. Their correlation is
`persistence` from one round to the next, and `likeness` between nodes. The least-squares solution
is then the posterior mean. It is exact wherever the equations alone determine a step. Both numbers
are chosen by maximum likelihood.

References:
    El Mrini, Cyffers, Bellet. Privacy Attacks in Decentralized Learning. ICML 2024, section 4.
    arXiv:2402.10001.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

PERSISTENCE = (0.3, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999)
"""Candidates of the correlation of a node's steps from round to round."""
LIKENESS = (0.0, 0.3, 0.6, 0.9, 0.97)
"""Candidates of the correlation of steps between nodes."""
ROUNDING = 2.0**-24
"""Relative rounding of messages in float32."""
LEAST_NOISE = 1e-10
"""Variance added to that of rounding. It keeps eigenvalues positive if equations depend on each other."""


@dataclass(frozen=True)
class View:
    """All that one node, the listener, knows of the training since it began to listen.

    Args:
        mixing: (N, N), the mixing matrix.
        own: Index of the listener.
        neighbors: Indices of the listener's neighbors.
        initial: (d,), the initial model of all nodes.
        own_models: (T, d), the listener's models in T rounds.
        own_messages: (T, d), the listener's messages.
        heard: (T, neighbors, d), the neighbors' messages, in the order of `neighbors`.
        start: The first of the T rounds.
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
    """The estimated model and step of a node, in the round with the least uncertainty.

    Args:
        model: (d,), the node's model before the step.
        step: (d,), the node's step eta g.
        round: Index of the round, from 0.
        uncertainty: Fraction of the step, as a standard deviation, that the equations leave open: 0
            for none, 1 for all.
    """

    model: Tensor
    step: Tensor
    round: int
    uncertainty: float


def estimate(view: View, victim: int) -> Estimate:
    """Return the victim's model and step in the round that the view determines best, in float64."""
    nodes = len(view.mixing)
    models, messages = unroll(view.mixing, view.start + len(view.heard))
    seen, right = equations(view, models, messages)
    noise = rounding_variance(view)
    prior = likeliest_prior(nodes, seen, right, noise)
    gain, covariance = posterior(prior, seen, noise)
    open_share = covariance.diagonal()[victim::nodes].clamp(0, 1).sqrt()
    best = int(open_share.argmin())
    model = models[best, victim] @ gain @ right
    step = gain[best * nodes + victim] @ right
    return Estimate(view.initial.double() + model, step, best, float(open_share[best]))


def unroll(mixing: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return two maps (T, N, T * N), from all steps, in order of rounds, to all models and to all messages."""
    nodes = len(mixing)
    steps = torch.eye(rounds * nodes, dtype=torch.float64).view(rounds, nodes, -1)
    models, messages = [torch.zeros_like(steps[0])], []
    for step in steps:
        messages.append(models[-1] - step)
        models.append(mixing @ messages[-1])
    return torch.stack(models[:-1]), torch.stack(messages)


def equations(view: View, models: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (R, T * N) and the right sides (R, d) of the listener's R equations for the steps."""
    rows = [
        models[view.start :, view.own],
        messages[view.start :, view.own],
        messages[view.start :, list(view.neighbors)].flatten(0, 1),
    ]
    values = torch.cat([view.own_models, view.own_messages, view.heard.flatten(0, 1)]).double()
    matrix, right = torch.cat(rows), values - view.initial.double()
    # The model of round 0 gives no equation for any step. It is left out if the listener has
    # listened from the start.
    kept = matrix.abs().sum(1) > 0
    return matrix[kept], right[kept]


def likeliest_prior(nodes: int, seen: Tensor, right: Tensor, noise: float) -> Tensor:
    """Return the prior covariance of all steps, up to scale, under which the right sides are likeliest."""
    gram = right @ right.T / right.shape[1]
    best, chosen = -torch.inf, torch.empty(0)
    for persistence, likeness in product(PERSISTENCE, LIKENESS):
        prior = covariance_of(persistence, likeness, seen.shape[1] // nodes, nodes)
        spread = seen @ prior @ seen.T + noise * torch.eye(len(seen), dtype=torch.float64)
        factor = torch.linalg.cholesky(spread)
        # The prior has the likeliest scale, given its other parameters.
        scale = torch.cholesky_solve(gram, factor).trace() / len(gram)
        likelihood = -2 * factor.diagonal().log().sum() - len(gram) * scale.log()
        if float(likelihood) > best:
            best, chosen = float(likelihood), prior
    return chosen


def covariance_of(persistence: float, likeness: float, rounds: int, nodes: int) -> Tensor:
    """Return the covariance (T * N, T * N) of steps of unit variance."""
    t = torch.arange(rounds, dtype=torch.float64)
    over_rounds = persistence ** (t.unsqueeze(0) - t.unsqueeze(1)).abs()
    between = likeness + (1 - likeness) * torch.eye(nodes, dtype=torch.float64)
    return torch.kron(over_rounds, between)


def posterior(prior: Tensor, seen: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return the matrix (U, R) from right sides to the posterior mean of U steps, and their covariance (U, U)."""
    cross = prior @ seen.T
    spread = seen @ cross + noise * torch.eye(len(seen), dtype=torch.float64)
    gain = torch.linalg.solve(spread, cross.T).T
    return gain, prior - gain @ cross.T


def rounding_variance(view: View) -> float:
    """Return the variance of rounding in the messages, in units of the steps' variance, at most about 1.

    The variance of all steps is estimated by that of the listener's own steps.
    """
    steps = float((view.own_models - view.own_messages).double().square().mean())
    rounding = ROUNDING**2 * float(view.heard.double().square().mean())
    return (rounding / steps if steps > rounding else 1.0) + LEAST_NOISE


__all__ = ["Estimate", "View", "estimate"]
