"""A group of clients that divide one batch among them and share only their aggregate."""

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
from leakgauge.federated.layers.statistics import average_statistics
from leakgauge.federated.training.aggregated import Aggregated


@dataclass(frozen=True, kw_only=True, repr=False)
class Group(Client):
    """A group of equal clients that divide one batch and share only the aggregate of their updates.

    The parts are consecutive, and their sizes differ by at most one example.

    Args:
        model: The network that each client trains.
        loss: A function of outputs and targets. It returns a scalar tensor.
        domain: The space of the inputs.
        classes: Number of classes of the labels, or None if targets are no class labels.
        training: The local training of each client.
        defense: The defense of each client, or None.
        trained_on: A list to which the batches after the defense are appended, see `Client`.
        clients: Number of clients, at least 1.
        aggregation: The rule that combines the updates.
        each: The local training of each client, with drawn orders of examples. Empty if no orders
            are drawn yet.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.federated import Group, WeightedMean
        >>> group = Group.of(lg.examples.client(), 2, WeightedMean())
        >>> [len(part) for part in group.parts(lg.examples.batch(5))]
        [3, 2]
    """

    clients: int
    aggregation: Aggregation = field(default_factory=WeightedMean)
    each: tuple[LocalTraining, ...] = ()

    @classmethod
    def of(cls, client: Client, clients: int, aggregation: Aggregation) -> Group:
        """Return a group of `clients` copies of `client`."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        return cls(**same, clients=clients, aggregation=aggregation)

    def parts(self, batch: Batch) -> list[Batch]:
        """Return the examples of each client.

        Raises:
            DataError: A client would have no example.
        """
        self.check_split(len(batch))
        inputs = batch.inputs.tensor_split(self.clients)
        targets = batch.targets.tensor_split(self.clients)
        return [Batch(x, y) for x, y in zip(inputs, targets, strict=True)]

    def check_split(self, count: int) -> None:
        """Raise DataError if `count` examples are fewer than the clients."""
        if count < self.clients:
            raise DataError(
                "batch",
                expected=f"at least one example for each of {self.clients} clients",
                found=f"batch {count}",
                remedy=f"set training.batch_size to {self.clients} or more, or lower threat.clients",
            )

    @property
    def aggregated(self) -> Aggregated:
        """The local training of all clients as one forward operator."""
        return Aggregated(training=self.training, clients=self.clients, each=self.each)

    @property
    def contributors(self) -> int:
        """The number of clients."""
        return self.clients

    @property
    def protocol(self) -> LocalTraining:
        """The map from the whole batch to the aggregate.

        The map is one gradient of all examples if three conditions hold. Each client shares one
        gradient, no module is in train mode, and the loss is a mean over the examples. Otherwise
        the map is `aggregated`.
        """
        apart = not any(module.training for module in self.model.modules())
        single = isinstance(self.training, SingleGradient) and apart
        return (
            self.training if single and is_batch_mean(self.loss, self.classes) else self.aggregated
        )

    def draw_orders(self, count: int, *, seeds: Seeds) -> Group:
        """Return the group with the orders of each client drawn."""
        return replace(self, each=self.aggregated.draw_orders(count, seeds=seeds).each)

    def members(self, batch: Batch, *, seeds: Seeds) -> list[tuple[Client, Batch, Seeds]]:
        """Return each client with its examples and its seeds."""
        alone = {each.name: getattr(self, each.name) for each in fields(Client)}
        own = (self if self.each else self.draw_orders(len(batch), seeds=seeds)).each
        return [
            (Client(**{**alone, "training": training}), part, seeds.child(f"client/{i}"))
            for i, (training, part) in enumerate(zip(own, self.parts(batch), strict=True))
        ]

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        """Train `model` on each client's part, defend each update, and return the aggregate."""
        members = self.members(batch, seeds=seeds)
        updates = [one.share(model, part, seeds=own) for one, part, own in members]
        counts = [len(part) for _, part, _ in members]
        return self.aggregation(updates, counts, seeds=seeds.child("aggregation"))

    def statistics(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Tensors:
        """Return the mean of the clients' running statistics, weighted by their numbers of examples."""
        members = self.members(batch, seeds=seeds)
        each = [one.statistics(model, part, seeds=own) for one, part, own in members]
        return average_statistics(each, [len(part) for _, part, _ in members])
