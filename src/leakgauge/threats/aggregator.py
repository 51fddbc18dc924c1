"""Adversaries behind an aggregation: they see several clients' updates as one, or one client's masked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from torch import nn

from leakgauge.core import Knowledge, Observation, Seeds, Update
from leakgauge.core.ranges import Count, Positive
from leakgauge.federated.aggregation import Aggregation, WeightedMean
from leakgauge.federated.client import Batch, Client
from leakgauge.federated.finite_field import MODULUS, FixedPoint, to_integers
from leakgauge.federated.group import Group
from leakgauge.federated.secure_aggregation import SecureAggregation
from leakgauge.federated.vectors import shaped
from leakgauge.threats.server import Server, refuse_statistics


@dataclass(frozen=True, kw_only=True)
class Aggregator(Server):
    """Sees the weighted mean of several clients' updates, added up by someone it cannot look at.

    The batch is that of all `clients` together, split among them as equally as can be. For one
    gradient step in eval mode the mean is exactly the gradient of that batch, and is attacked so; else the
    adversary simulates the clients one by one (`Aggregated`), and is not told which example is whose.
    Running statistics, where granted, are the clients' weighted mean.
    """

    clients: Count = 4

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted, of all clients together."""
        return super().grants & Knowledge.names()

    @property
    def aggregation(self) -> Aggregation:
        """How the clients' updates become one."""
        return WeightedMean()

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `clients` clients like `client` train on `batch`. Raises DataError where one would have no example."""
        group = Group.of(client, self.clients, self.aggregation)
        return super().observe(group, batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class SecureAggregator(Aggregator):
    """The server of a secure aggregation: sees masked vectors, of which only the weighted mean can be read.

    Updates are quantized to `bits` bits in [-clip, clip]: the mean is exact to half a step. That of
    running statistics, where granted, is not quantized.
    """

    bits: Count = 32
    clip: Positive = 16.0

    @property
    def aggregation(self) -> SecureAggregation:
        """Bonawitz et al. 2017."""
        return SecureAggregation(fixed=FixedPoint(clip=self.clip, bits=self.bits))


@dataclass(frozen=True, kw_only=True)
class MaskedUpdate(SecureAggregator):
    """Sees what one client of a secure aggregation sends, before anything is unmasked: noise, if the masks hold.

    The batch is that client's. The masked vector is read as numbers in [-clip, clip]; which
    range stands for them does not matter, as all are equally likely.
    """

    def __post_init__(self) -> None:
        refuse_statistics(self, "running statistics leave the client masked, as the update does")

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return its masked vector as the update."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        masked = _Masked(**same, clients=self.clients, aggregation=self.aggregation)
        return Server.observe(self, masked, batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class _Masked(Client):
    """A client whose update leaves it masked."""

    clients: int
    aggregation: SecureAggregation = field(default_factory=SecureAggregation)

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        update = super().share(model, batch, seeds=seeds)
        masked = self.aggregation.masked(
            update, len(batch), clients=self.clients, seeds=seeds.child("aggregation")
        )
        unit = to_integers(masked).double() / (MODULUS // 2)
        vector = unit * self.aggregation.fixed.clip
        return Update(shaped(vector, update.tensors), update.kind)


__all__ = ["Aggregator", "MaskedUpdate", "SecureAggregator"]
