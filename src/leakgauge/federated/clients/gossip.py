"""Decentralized training by gossip: nodes exchange models with their neighbors, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.core import Seeds, SpecificationError, deep_copy, trainable
from leakgauge.federated.aggregation.vectors import flat, shaped
from leakgauge.federated.clients.client import Batch, Client


def circulant(nodes: int, degree: int) -> Tensor:
    """Return the adjacency (N, N), of bool, of a circulant graph.

    The nodes lie on a circle. Each is joined to its nearest nodes on both sides. If `degree` is odd,
    it is also joined to the opposite node.

    Args:
        nodes: Number of nodes N.
        degree: Number of neighbors of each node, from 1 to N - 1.

    Raises:
        SpecificationError: There is no connected graph of this degree.
    """
    fits = 1 <= degree < nodes and (degree % 2 == 0 or nodes % 2 == 0)
    if not fits or (degree == 1 and nodes > 2):
        raise SpecificationError(
            "gossip",
            expected="a connected graph in which all nodes have the same degree",
            found=f"degree {degree} on {nodes} nodes",
            remedy="choose a degree below the number of nodes; an odd degree needs an even number of "
            "nodes, and degree 1 needs exactly 2",
        )
    reach = [step for near in range(1, degree // 2 + 1) for step in (near, -near)]
    if degree % 2:
        reach.append(nodes // 2)
    joined = torch.zeros((nodes, nodes), dtype=torch.bool)
    for node in range(nodes):
        joined[node, [(node + step) % nodes for step in reach]] = True
    return joined


def metropolis(joined: Tensor) -> Tensor:
    """Return the Metropolis-Hastings mixing weights (N, N) of a graph `joined` (N, N), in float64.

    `W[i, j] = 1 / (1 + max(deg_i, deg_j))` for neighbors i and j. The matrix is symmetric and doubly
    stochastic.
    """
    degree = joined.sum(1).double()
    weights = joined / (1 + torch.maximum(degree.unsqueeze(0), degree.unsqueeze(1)))
    return weights + torch.diag(1 - weights.sum(1))


def distances(joined: Tensor, start: int) -> list[int]:
    """Return the number of edges from `start` to each of N nodes of a connected graph."""
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
    """The models of all nodes over time, for T rounds, N nodes and d parameters.

    Args:
        models: The models (T, N, d) before each step.
        messages: The models (T, N, d) after each step, which the nodes send.
    """

    models: Tensor
    messages: Tensor


@dataclass(frozen=True)
class Gossip:
    r"""Decentralized training, in which each node takes a step, then averages with its neighbors.

    .. math::

        m_i = x_i - \eta \, g_i(x_i), \qquad x_i \leftarrow \sum_j W_{ij} m_j

    Node :math:`i` holds the model :math:`x_i` and sends :math:`m_i` to its neighbors. Its gradient,
    on its own examples, is :math:`g_i`. The step size :math:`\eta` is `learning_rate`, and :math:`W`
    are the weights of `metropolis`. Nothing else leaves a node. All nodes start from one model.

    Args:
        joined: Adjacency (N, N), of bool.
        learning_rate: Step size.

    References:
        Lian, Zhang, Zhang, Hsieh, Zhang, Liu. Can Decentralized Algorithms Outperform Centralized
        Algorithms? A Case Study for Decentralized Parallel Stochastic Gradient Descent. NeurIPS 2017.
        arXiv:1705.09056. Here a node steps before it averages ("adapt, then combine").
    """

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
        """Run `rounds` rounds, and return the models and messages of all nodes.

        Args:
            client: The client that all nodes copy. The nodes differ only in their batches.
            model: The first model of all nodes.
            batches: The batch of each node. A node uses its whole batch in each step.
            rounds: Number of rounds T.
            seeds: Seeds of everything that the nodes draw.
        """
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
    """Return a copy of `model` with the trainable parameters `state` (d,)."""
    moved = deep_copy(model)
    parameters = trainable(moved)
    with torch.no_grad():
        for name, value in shaped(state, parameters).items():
            parameters[name].copy_(value)
    return moved


__all__ = ["Gossip", "Trajectories", "at", "circulant", "distances", "metropolis"]
