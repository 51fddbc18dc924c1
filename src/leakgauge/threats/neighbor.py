"""An adversary inside the network: one node of a gossip, who listens to its neighbors."""

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
from leakgauge.core.allowance import check_kept
from leakgauge.core.ranges import Positive
from leakgauge.federated.aggregation.vectors import shaped
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.gossip import Gossip, at, circulant, distances, metropolis
from leakgauge.threats.server import Server, refuse_statistics

MOST_STEPS = 4096
"""Most steps, nodes times rounds, that are solved for: a dense system of so many unknowns."""
Number = Annotated[int, Ge(1), Le(MOST_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Neighbor(Server):
    """Sees the models that its neighbors send in each round of decentralized training, and works out one gradient.

    Node 0 of `nodes` on a circle, each joined to `degree` others. The batch is that of the nearest
    node `hops` away; the others hold random examples, or `bystanders`, as many each as the victim.
    It listens for `listening` rounds from round `start` on, and knows the model that all nodes
    started from.
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
        refuse_statistics(self, "nodes mix parameters alone, and keep running statistics")

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted."""
        return super().grants & Knowledge.names()

    @property
    def victim(self) -> int:
        """The node attacked. Raises SpecificationError where none is `hops` away."""
        away = distances(circulant(self.nodes, self.degree), 0)
        if self.hops not in away:
            raise SpecificationError(
                "threat.hops",
                expected=f"at most {max(away)}, as far as a node is from another",
                found=str(self.hops),
                remedy="lower hops, or the degree",
            )
        return away.index(self.hops)

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let the network train, and return the victim's gradient as this node works it out."""
        if client.training.kind != "gradient":
            raise SpecificationError(
                "threat neighbor",
                expected="training by one gradient a round",
                found=repr(client.training),
                remedy="set training.name to fedsgd",
            )
        self.check_steps(client)
        # First, so that what the adversary gets is copied before any node trains.
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
        """Raise SpecificationError if nodes and rounds together are more than can be solved for, or kept."""
        steps = self.nodes * (self.start + self.listening)
        if steps > MOST_STEPS:
            raise SpecificationError(
                "threat neighbor",
                expected=f"nodes x (start + listening) of at most {MOST_STEPS:,}",
                found=f"{steps:,}",
                remedy="lower nodes, start or listening",
            )
        size = sum(parameter.numel() for parameter in client.model.parameters())
        check_kept("threat neighbor", steps * size, "lower nodes, start or listening")

    def overhear(self, client: Client, model: nn.Module, batch: Batch, seeds: Seeds) -> Estimate:
        """Run the network, and estimate the victim's step from what node 0 holds of it."""
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
        """The batches of all nodes but the victim. Raises DataError where bystanders are too few or cannot be drawn."""
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
                expected=f"bystanders, an example or more for each of {count} nodes",
                found="none, and no number of classes to draw labels of"
                if self.bystanders is None
                else str(len(self.bystanders)),
                remedy="pass bystanders to Neighbor",
            )
        inputs = drawn.inputs.to(like.inputs).tensor_split(count)
        targets = drawn.targets.to(like.targets.device).tensor_split(count)
        return [Batch(x, y) for x, y in zip(inputs, targets, strict=True)]


__all__ = ["Neighbor"]
