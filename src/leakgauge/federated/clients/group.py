"""A group of clients that share one batch between them, and of which only the aggregate leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from torch import nn

from leakgauge.core import (
    DataError,
    LocalTraining,
    Seeds,
    SingleGradient,
    Tensors,
    Update,
)
from leakgauge.federated.aggregation.averaging import is_batch_mean
from leakgauge.federated.aggregation.sums import Aggregation, WeightedMean
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.layers.statistics import averaged
from leakgauge.federated.training.aggregated import Aggregated


@dataclass(frozen=True, kw_only=True, repr=False)
class Group(Client):
    """`clients` clients alike, who hold parts of a batch as equal in size as can be, in its order."""

    clients: int
    aggregation: Aggregation = field(default_factory=WeightedMean)
    each: tuple[LocalTraining, ...] = ()

    @classmethod
    def of(cls, client: Client, clients: int, aggregation: Aggregation) -> Group:
        """As many clients like `client`."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        return cls(**same, clients=clients, aggregation=aggregation)

    def parts(self, batch: Batch) -> list[Batch]:
        """Each client's examples. Raises DataError where some would have none."""
        self.check_split(len(batch))
        inputs = batch.inputs.tensor_split(self.clients)
        targets = batch.targets.tensor_split(self.clients)
        return [Batch(x, y) for x, y in zip(inputs, targets, strict=True)]

    def check_split(self, count: int) -> None:
        """Raise DataError if `count` examples are fewer than the clients."""
        if count < self.clients:
            raise DataError(
                "batch",
                expected=f"an example for each of {self.clients} clients, as it is split among them",
                found=f"batch {count}",
                remedy=f"set training.batch_size to {self.clients} or more, or lower threat.clients",
            )

    @property
    def aggregated(self) -> Aggregated:
        """The local training of all clients as one."""
        return Aggregated(training=self.training, clients=self.clients, each=self.each)

    @property
    def contributors(self) -> int:
        return self.clients

    @property
    def protocol(self) -> LocalTraining:
        """Return what turns the whole batch into the aggregate.

        It is one gradient of all examples if none meets another in the model, and the loss is a mean over them.
        """
        apart = not any(module.training for module in self.model.modules())
        single = isinstance(self.training, SingleGradient) and apart
        return (
            self.training if single and is_batch_mean(self.loss, self.classes) else self.aggregated
        )

    def drawn(self, count: int, *, seeds: Seeds) -> Group:
        """The group with each client's orders drawn."""
        return replace(self, each=self.aggregated.drawn(count, seeds=seeds).each)

    def members(self, batch: Batch, *, seeds: Seeds) -> list[tuple[Client, Batch, Seeds]]:
        """Each client, its examples and its seeds."""
        alone = {each.name: getattr(self, each.name) for each in fields(Client)}
        own = (self if self.each else self.drawn(len(batch), seeds=seeds)).each
        return [
            (Client(**{**alone, "training": training}), part, seeds.child(f"client/{i}"))
            for i, (training, part) in enumerate(zip(own, self.parts(batch), strict=True))
        ]

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        """Each client trains `model` on its part and defends its update; returns the aggregate of all."""
        members = self.members(batch, seeds=seeds)
        updates = [one.share(model, part, seeds=own) for one, part, own in members]
        counts = [len(part) for _, part, _ in members]
        return self.aggregation(updates, counts, seeds=seeds.child("aggregation"))

    def statistics(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Tensors:
        """The mean of the clients' running statistics, weighted by their examples."""
        members = self.members(batch, seeds=seeds)
        each = [one.statistics(model, part, seeds=own) for one, part, own in members]
        return averaged(each, [len(part) for _, part, _ in members])
