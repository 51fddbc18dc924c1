"""A threat model over several rounds on the same batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from leakgauge.core import Knowledge, Observation, Seeds, Update, deep_copy
from leakgauge.core.allowance import check_memory_of_rounds
from leakgauge.core.ranges import Positive
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.layers.statistics import adopt
from leakgauge.federated.training.local_steps import shift_model
from leakgauge.federated.training.rounds import Rounds, join_rounds
from leakgauge.threats.server import Server

MOST_ROUNDS = 1000
"""Most rounds that are matched jointly. The adversary keeps the model and the update of each."""


@dataclass(frozen=True, kw_only=True)
class SeveralRounds(Server):
    """A server that sees updates of the same batch in several rounds, and matches them jointly.

    It stands for a server that asks the same client again while its data stay the same. After each
    round it moves the model by the update: by -`rate` times a gradient, or by the weight difference
    itself. The client trains on the next model, with the order that it drew in the first round.
    If running statistics are granted, the adversary sees those of each round, and the next model
    holds them.

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
        statistics: Whether it knows the running statistics of BatchNorm layers in train mode, after
            local training.
        rounds: Number of rounds, from 1 to 1000. The adversary keeps the model and the update of
            each.
        rate: Step size of the server, above 0. It is used only if the client shares a gradient.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(threat=lg.SeveralRounds(rounds=3))
        >>> len(observation.update.tensors), len(list(observation.model.parameters()))
        (12, 4)
    """

    rounds: Annotated[int, Ge(1), Le(MOST_ROUNDS)] = 2
    rate: Positive = 0.1

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge that is granted."""
        return super().grants & Knowledge.names()

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on the batch in each round and return the joint observation."""
        size = sum(parameter.numel() for parameter in client.model.parameters())
        check_memory_of_rounds("threat.rounds", self.rounds * size, "lower threat.rounds")
        first = super().look(client, batch, seeds=seeds)
        # The order that the client drew in the first round serves all rounds.
        drawn = client.draw_orders(len(batch), seeds=seeds)
        models, updates = [first.model], [first.update]
        statistics = [first.knowledge.statistics or {}]
        for t in range(1, self.rounds):
            models.append(self.moved(models[-1], updates[-1]))
            adopt(models[-1], statistics[-1])
            own, model = seeds.child(f"round/{t}"), deep_copy(models[-1])
            updates.append(drawn.share(model, batch, seeds=own))
            statistics.append(drawn.statistics(model, batch, seeds=own) if self.statistics else {})
        tensors = join_rounds([update.tensors for update in updates])
        return replace(
            first,
            training=Rounds(first.training, tuple(models[1:])),
            update=Update(tensors, first.update.kind),
            knowledge=replace(first.knowledge, statistics=join_rounds(statistics) or None),
        )

    def moved(self, model: nn.Module, update: Update) -> nn.Module:
        """Return the model of the next round."""
        scale = -self.rate if update.kind == "gradient" else 1.0
        return shift_model(model, update.tensors, scale)
