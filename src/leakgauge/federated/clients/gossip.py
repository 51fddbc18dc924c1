"""Decentralized training by gossip. Lian et al.: NeurIPS 2017 (D-PSGD), in the order adapt, then combine.

In each round node i takes a step on its own examples, sends the result to its neighbors, and mixes:

    m_i = x_i - eta g_i(x_i)        x_i <- sum_j W_ij m_j        W_ij = 1 / (1 + max(deg_i, deg_j))

with W the Metropolis-Hastings weights of the graph. Nothing else leaves a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.core import Seeds, SpecificationError, copied, trainable
from leakgauge.federated.aggregation.vectors import flat, shaped
from leakgauge.federated.clients.client import Batch, Client


def circulant(nodes: int, degree: int) -> Tensor:
    """(N, N) bool adjacency: nodes on a circle, each joined to the `degree` nearest, opposite ones last.

    Raises SpecificationError where there is no such connected graph.
    """
    fits = 1 <= degree < nodes and (degree % 2 == 0 or nodes % 2 == 0)
    if not fits or (degree == 1 and nodes > 2):
        raise SpecificationError(
            "gossip",
            expected="a connected graph whose nodes all have that degree",
            found=f"degree {degree} on {nodes} nodes",
            remedy="give a degree below the nodes, even or on evenly many; degree 1 is 2 nodes",
        )
    reach = [step for near in range(1, degree // 2 + 1) for step in (near, -near)]
    if degree % 2:
        reach.append(nodes // 2)
    joined = torch.zeros((nodes, nodes), dtype=torch.bool)
    for node in range(nodes):
        joined[node, [(node + step) % nodes for step in reach]] = True
    return joined


def metropolis(joined: Tensor) -> Tensor:
    """(N, N) float64 symmetric, doubly stochastic mixing weights of a graph (N, N) bool."""
    degree = joined.sum(1).double()
    weights = joined / (1 + torch.maximum(degree.unsqueeze(0), degree.unsqueeze(1)))
    return weights + torch.diag(1 - weights.sum(1))


def distances(joined: Tensor, start: int) -> list[int]:
    """(N,) edges from `start` to each node of a connected graph."""
    found = [-1] * len(joined)
    found[start], frontier = 0, [start]
    for node in frontier:
        for other in joined[node].nonzero().flatten().tolist():
            if found[other] < 0:
                found[other] = found[node] + 1
                frontier.append(other)
    return found


@dataclass(frozen=True)
class Trajectories:
    """What the nodes held and sent: models (T, N, d) before each step, messages (T, N, d) after it."""

    models: Tensor
    messages: Tensor


@dataclass(frozen=True)
class Gossip:
    """Nodes joined as `joined` (N, N) says, who all start from one model, and step by `learning_rate`."""

    joined: Tensor
    learning_rate: float

    def run(
        self,
        client: Client,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        rounds: int,
        seeds: Seeds,
    ) -> Trajectories:
        """`rounds` rounds of nodes like `client`, each with all of its batch in each step."""
        mixing = metropolis(self.joined)
        start = flat(trainable(model)).cpu()
        states = start.expand(len(batches), -1)
        models, messages = [], []
        for t in range(rounds):
            steps = [
                flat(
                    client.share(
                        at(model, state), batch, seeds=seeds.child(f"node/{i}/round/{t}")
                    ).tensors
                ).cpu()
                for i, (state, batch) in enumerate(zip(states, batches, strict=True))
            ]
            models.append(states)
            messages.append(states - self.learning_rate * torch.stack(steps))
            states = (mixing @ messages[-1].double()).to(start.dtype)
        return Trajectories(torch.stack(models), torch.stack(messages))


def at(model: nn.Module, state: Tensor) -> nn.Module:
    """A copy of `model` with the trainable parameters `state` (d,)."""
    moved = copied(model)
    parameters = trainable(moved)
    with torch.no_grad():
        for name, value in shaped(state, parameters).items():
            parameters[name].copy_(value)
    return moved


__all__ = ["Gossip", "Trajectories", "at", "circulant", "distances", "metropolis"]
