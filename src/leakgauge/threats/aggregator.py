"""Adversaries behind an aggregation: they see several clients' updates as one, or one client's masked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from leakgauge.core import Knowledge, Observation, Seeds, Update
from leakgauge.core.ranges import Count, Positive
from leakgauge.federated.aggregation.finite_field import FixedPoint
from leakgauge.federated.aggregation.homomorphic import HomomorphicEncryption
from leakgauge.federated.aggregation.secure_aggregation import SecureAggregation
from leakgauge.federated.aggregation.sums import Aggregation, Concealing, WeightedMean
from leakgauge.federated.aggregation.vectors import shaped
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.group import Group
from leakgauge.threats.server import Server, refuse_statistics

MOST_CLIENTS = 1024
"""Most clients of one aggregation: each is simulated."""
MOST_KEYED = 128
"""Most clients of a secure aggregation: each agrees on a key with every other, in about 5 s for all."""


@dataclass(frozen=True, kw_only=True)
class Aggregator(Server):
    """Sees the weighted mean of several clients' updates, added up by someone it cannot look at.

    The batch is that of all `clients` together, split among them as equally as can be. For one
    gradient step in eval mode the mean is exactly the gradient of that batch, and is attacked so; else the
    adversary simulates the clients one by one (`Aggregated`), and is not told which example is whose.
    Running statistics, where granted, are the clients' weighted mean.
    """

    clients: Annotated[int, Ge(1), Le(MOST_CLIENTS)] = 4

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted, of all clients together."""
        return super().grants & Knowledge.names()

    @property
    def aggregation(self) -> Aggregation:
        """How the clients' updates become one."""
        return WeightedMean()

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples one client trains on: each number once."""
        least, more = divmod(count, self.clients)
        return sorted({size for size in (least, least + bool(more)) if size})

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `clients` clients like `client` train on `batch`. Raises DataError where one would have no example."""
        group = Group.of(client, self.clients, self.aggregation)
        group.check_split(len(batch))
        return super().look(group, batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Quantized(Aggregator):
    """An aggregator whose clients quantize their updates to `bits` bits in [-clip, clip]: exact to half a step.

    The mean of running statistics, where granted, is not quantized.
    """

    bits: Count = 32
    clip: Positive = 16.0

    @property
    def fixed(self) -> FixedPoint:
        """The fixed point of the clients."""
        return FixedPoint(clip=self.clip, bits=self.bits)


@dataclass(frozen=True, kw_only=True)
class SecureAggregator(Quantized):
    """The server of a secure aggregation: sees masked vectors, of which only the weighted mean can be read."""

    clients: Annotated[int, Ge(1), Le(MOST_KEYED)] = 4

    @property
    def aggregation(self) -> SecureAggregation:
        """Bonawitz et al. 2017."""
        return SecureAggregation(fixed=self.fixed)


@dataclass(frozen=True, kw_only=True)
class HomomorphicAggregator(Quantized):
    """A holder of the key under homomorphic encryption: another client, who is given the decrypted mean.

    Sees no ciphertexts but of the sum. The mean is that of `SecureAggregator`, bit for bit.
    """

    @property
    def aggregation(self) -> HomomorphicEncryption:
        """CKKS (Cheon et al. 2017)."""
        return HomomorphicEncryption(fixed=self.fixed)


@dataclass(frozen=True, kw_only=True)
class MaskedUpdate(SecureAggregator):
    """Sees what one client of a secure aggregation sends, before anything is unmasked: noise, if the masks hold.

    The batch is that client's. The masked vector is read as numbers in [-clip, clip]; which
    range stands for them does not matter, as all are equally likely.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_statistics(self, "running statistics leave the client masked, as the update does")

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples one client trains on: all, as the batch is that client's."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return its masked vector as the update."""
        return Server.look(self, Concealed.of(client, self), batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class EncryptedUpdate(HomomorphicAggregator):
    """The server of a homomorphic encryption: sees one client's ciphertexts, without the key: noise, if they hold.

    The batch is that client's. The model is granted all the same, as that which training began with is
    mostly known. As many numbers of the ciphertexts as the update has are read as numbers in [-clip, clip].
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_statistics(self, "running statistics leave the client encrypted, as the update does")

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples one client trains on: all, as the batch is that client's."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return numbers of its ciphertexts as the update."""
        return Server.look(self, Concealed.of(client, self), batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True, repr=False)
class Concealed(Client):
    """One of `clients` clients alike, whose update leaves it as noise, read as numbers in [-clip, clip]."""

    clients: int
    aggregation: Concealing
    clip: float

    @classmethod
    def of(cls, client: Client, threat: SecureAggregator | HomomorphicAggregator) -> Concealed:
        """`client` in the aggregation that `threat` looks at."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        return cls(**same, clients=threat.clients, aggregation=threat.aggregation, clip=threat.clip)

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        update = super().share(model, batch, seeds=seeds)
        seen = self.aggregation.concealed(
            update, len(batch), clients=self.clients, seeds=seeds.child("aggregation")
        )
        return Update(shaped(seen * self.clip, update.tensors), update.kind)


__all__ = [
    "Aggregator",
    "EncryptedUpdate",
    "HomomorphicAggregator",
    "MaskedUpdate",
    "SecureAggregator",
]
