"""A threat model inside a network without a server: one node listens to its neighbors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import nn

from leakgauge.analytic.overhearing import Estimate, View, estimate
from leakgauge.core import (
    DataError,
    Knowledge,
    Observation,
    Seeds,
    SpecificationError,
    Update,
    space_of,
    trainable,
)
from leakgauge.core.allowance import check_memory_of_rounds
from leakgauge.core.ranges import Positive
from leakgauge.federated.aggregation.vectors import shaped
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.gossip import Gossip, at, circulant, distances, metropolis
from leakgauge.threats.server import Server, refuse_statistics

MOST_STEPS = 4096
"""Most steps, which are nodes times rounds. Each step is an unknown of a dense linear system."""
Number = Annotated[int, Ge(1), Le(MOST_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Neighbor(Server):
    """A node in decentralized training that listens to its neighbors and estimates another node's gradient.

    It stands for an honest-but-curious member of a network without a server (gossip). In each round
    it sees the models that its neighbors send. It also knows the model from which all nodes
    started, and the mixing weights of the network.

    The adversary is node 0 of a circle of nodes. The victim is the first node at a distance of
    `hops`, and holds the private batch. Each other node holds the same number of random examples,
    or a part of `bystanders`. From all messages that it received, the adversary solves for the
    victim's gradient.

    Args:
        batch_size: Whether the adversary knows the number of examples B.
        labels: Whether it knows the labels, without their order in the batch.
        label_counts: Whether it knows the number of examples of each class.
        defense: Whether it knows the client's defense and its options. Only then can it be an
            adaptive adversary.
        order: Whether it knows the order in which the client visits its examples, epoch by epoch.
            Granted labels are then in the batch's order.
        hyperparameters: Whether it knows the number of local steps and their learning rates. If a
            client shares one gradient, the adversary always knows this.
        statistics: Must be False. Nodes exchange only parameters, and keep their running
            statistics.
        nodes: Number of nodes, from 1 to 4096.
        degree: Number of neighbors of each node. It is below `nodes`. An odd degree needs an even
            number of nodes.
        hops: Distance of the victim from the adversary, at least 1, in edges.
        start: Round in which the adversary begins to listen, from 0.
        listening: Number of rounds for which it listens, at least 1. `nodes` times all rounds is at
            most 4096.
        learning_rate: Step size of each node, above 0.
        bystanders: Examples of the other nodes, at least one for each. By default they are random.

    References:
        El Mrini, Cyffers, Bellet. Privacy Attacks in Decentralized Learning. ICML 2024.
        arXiv:2402.10001.

    Example:
        >>> import leakgauge as lg
        >>> threat = lg.Neighbor(nodes=4, hops=2, listening=3)
        >>> observation = lg.examples.observation(batch_size=2, threat=threat)
        >>> threat.victim, observation.update.kind
        (2, 'gradient')
    """

    nodes: Number = 8
    degree: Number = 2
    hops: Number = 1
    start: Annotated[int, Ge(0), Le(MOST_STEPS)] = 0
    listening: Number = 8
    learning_rate: Positive = 0.01
    bystanders: Batch | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_statistics(self, "nodes exchange only parameters, and keep their running statistics")

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge that is granted."""
        return super().grants & Knowledge.names()

    @property
    def victim(self) -> int:
        """Index of the attacked node.

        Raises:
            SpecificationError: No node is `hops` away.
        """
        away = distances(circulant(self.nodes, self.degree), 0)
        if self.hops not in away:
            raise SpecificationError(
                "threat.hops",
                expected=f"at most {max(away)}, the largest distance of two nodes",
                found=str(self.hops),
                remedy="lower hops or degree",
            )
        return away.index(self.hops)

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let the network train, and return an observation with this node's estimate of the victim's gradient."""
        if client.training.kind != "gradient":
            raise SpecificationError(
                "threat neighbor",
                expected="a training that shares one gradient in each round",
                found=repr(client.training),
                remedy="set training.name to fedsgd",
            )
        self.check_steps(client)
        # This comes first, because the adversary's copies must be made before any node trains.
        seen = super().look(client, batch, seeds=seeds)
        model = client.global_model(seeds=seeds)
        heard = self.overhear(client, model, batch, seeds)
        like = trainable(model)
        return replace(
            seen,
            model=at(seen.model, heard.model),
            update=Update(shaped(heard.step / self.learning_rate, like)),
        )

    def check_steps(self, client: Client) -> None:
        """Raise SpecificationError if nodes times rounds exceed what can be solved or stored."""
        steps = self.nodes * (self.start + self.listening)
        if steps > MOST_STEPS:
            raise SpecificationError(
                "threat neighbor",
                expected=f"nodes x (start + listening) of at most {MOST_STEPS:,}",
                found=f"{steps:,}",
                remedy="lower nodes, start or listening",
            )
        size = sum(parameter.numel() for parameter in client.model.parameters())
        check_memory_of_rounds("threat neighbor", steps * size, "lower nodes, start or listening")

    def overhear(self, client: Client, model: nn.Module, batch: Batch, seeds: Seeds) -> Estimate:
        """Run the network and estimate the victim's step from what node 0 holds."""
        joined = circulant(self.nodes, self.degree)
        parts = self.others(client, batch, seeds)
        parts.insert(self.victim, batch)
        happened = Gossip(joined, self.learning_rate).run(
            client, model, parts, rounds=self.start + self.listening, seeds=seeds.child("gossip")
        )
        neighbors = joined[0].nonzero().flatten().tolist()
        since = slice(self.start, None)
        view = View(
            mixing=metropolis(joined),
            own=0,
            neighbors=tuple(neighbors),
            initial=happened.models[0, 0],
            own_models=happened.models[since, 0],
            own_messages=happened.messages[since, 0],
            heard=happened.messages[since, neighbors],
            start=self.start,
        )
        return estimate(view, self.victim)

    def others(self, client: Client, like: Batch, seeds: Seeds) -> list[Batch]:
        """Return the batches of all nodes except the victim.

        Raises:
            DataError: There are too few bystanders, or none can be drawn.
        """
        count, size = self.nodes - 1, len(like)
        if self.bystanders is None and client.classes is not None:
            generator = seeds.generator("bystanders")
            sampled = space_of(client.domain).sample(count * size, generator)
            labels = torch.randint(client.classes, (count * size,), generator=generator)
            drawn = Batch(sampled, labels)
        elif self.bystanders is not None and len(self.bystanders) >= count:
            drawn = self.bystanders
        else:
            raise DataError(
                "threat neighbor",
                expected=f"bystanders, at least one example for each of {count} nodes",
                found="none, and no number of classes for random labels"
                if self.bystanders is None
                else str(len(self.bystanders)),
                remedy="pass bystanders to Neighbor",
            )
        inputs = drawn.inputs.to(like.inputs).tensor_split(count)
        targets = drawn.targets.to(like.targets.device).tensor_split(count)
        return [Batch(x, y) for x, y in zip(inputs, targets, strict=True)]


__all__ = ["Neighbor"]
