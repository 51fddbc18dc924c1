"""An adversary who sees the same batch trained on in several rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from leakgauge.core import Knowledge, Observation, Seeds, Update, copied
from leakgauge.core.allowance import check_kept
from leakgauge.core.ranges import Positive
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.layers.statistics import adopt
from leakgauge.federated.training.local_steps import moved
from leakgauge.federated.training.rounds import Rounds, joined
from leakgauge.threats.server import Server

MOST_ROUNDS = 1000
"""Most rounds that are matched jointly: the adversary keeps the model and the update of each."""


@dataclass(frozen=True, kw_only=True)
class SeveralRounds(Server):
    """A server that sees the updates of one batch at successive models, and matches them jointly.

    After each round it moves the model by the update: by -`rate` times a gradient, by a weight difference as it
    is. Where it is told running statistics, it is told each round's, and the next model bears them.
    """

    rounds: Annotated[int, Ge(1), Le(MOST_ROUNDS)] = 2
    rate: Positive = 0.1

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted."""
        return super().grants & Knowledge.names()

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` in each round and return all that this adversary sees."""
        size = sum(parameter.numel() for parameter in client.model.parameters())
        check_kept("threat.rounds", self.rounds * size, "lower threat.rounds")
        first = super().look(client, batch, seeds=seeds)
        # One order for all rounds: what the client drew in the first.
        drawn = client.drawn(len(batch), seeds=seeds)
        models, updates = [first.model], [first.update]
        told = [first.knowledge.statistics or {}]
        for t in range(1, self.rounds):
            models.append(self.moved(models[-1], updates[-1]))
            adopt(models[-1], told[-1])
            own, model = seeds.child(f"round/{t}"), copied(models[-1])
            updates.append(drawn.share(model, batch, seeds=own))
            told.append(drawn.statistics(model, batch, seeds=own) if self.statistics else {})
        tensors = joined([update.tensors for update in updates])
        return replace(
            first,
            training=Rounds(first.training, tuple(models[1:])),
            update=Update(tensors, first.update.kind),
            knowledge=replace(first.knowledge, statistics=joined(told) or None),
        )

    def moved(self, model: nn.Module, update: Update) -> nn.Module:
        """The model of the next round."""
        scale = -self.rate if update.kind == "gradient" else 1.0
        return moved(model, update.tensors, scale)
