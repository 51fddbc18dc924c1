"""A group of clients that share one batch between them, and of which only the aggregate leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from torch import nn

from leakgauge.core import DataError, Seeds, Tensors, Update
from leakgauge.federated.aggregation import Aggregation, WeightedMean
from leakgauge.federated.client import Batch, Client
from leakgauge.federated.statistics import averaged


@dataclass(frozen=True, kw_only=True)
class Group(Client):
    """`clients` clients alike, who hold parts of a batch as equal in size as can be, in its order."""

    clients: int
    aggregation: Aggregation = field(default_factory=WeightedMean)

    @classmethod
    def of(cls, client: Client, clients: int, aggregation: Aggregation) -> Group:
        """As many clients like `client`."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        return cls(**same, clients=clients, aggregation=aggregation)

    def parts(self, batch: Batch) -> list[Batch]:
        """Each client's examples. Raises DataError where some would have none."""
        if len(batch) < self.clients:
            raise DataError(
                "batch",
                expected=f"an example for each of {self.clients} clients, as it is split among them",
                found=f"batch {len(batch)}",
                remedy=f"set training.batch_size to {self.clients} or more, or lower threat.clients",
            )
        inputs = batch.inputs.tensor_split(self.clients)
        targets = batch.targets.tensor_split(self.clients)
        return [Batch(x, y) for x, y in zip(inputs, targets, strict=True)]

    def drawn(self, count: int, *, seeds: Seeds) -> Group:
        """The group as it is: each client draws its own orders as it trains."""
        return self

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        """Each client trains `model` on its part and defends its update; returns the aggregate of all."""
        parts = self.parts(batch)
        updates = [
            super(Group, self).share(model, part, seeds=seeds.child(f"client/{i}"))
            for i, part in enumerate(parts)
        ]
        return self.aggregation(
            updates, [len(part) for part in parts], seeds=seeds.child("aggregation")
        )

    def statistics(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Tensors:
        """The mean of the clients' running statistics, weighted by their examples."""
        parts = self.parts(batch)
        each = [
            super(Group, self).statistics(model, part, seeds=seeds.child(f"client/{i}"))
            for i, part in enumerate(parts)
        ]
        return averaged(each, [len(part) for part in parts])
