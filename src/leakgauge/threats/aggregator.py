"""Threat models with an aggregation: the adversary sees the sum of several clients, or one concealed update."""

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
"""Most clients of one aggregation. Each of them is simulated."""
MOST_KEYED = 128
"""Most clients of a secure aggregation. All pairs agree on keys, which takes about 5 s for 128 clients."""


@dataclass(frozen=True, kw_only=True)
class Aggregator(Server):
    """A server that sees only the mean update of several clients.

    Someone else adds up the updates, and the adversary cannot look inside. It stands for a server
    behind an aggregator that it does not control.

    The private batch is that of all clients together. It is divided into consecutive parts, whose
    sizes differ by at most one example. The mean weighs each client by its number of examples. With
    one gradient step and a model in eval mode, the mean is exactly the gradient of the whole batch.
    Attacks then treat it as one gradient. Otherwise the adversary simulates each client. It does not
    know which example belongs to which client.

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
            local training. They are the clients' weighted mean.
        clients: Number of clients, from 1 to 1024.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=4, threat=lg.Aggregator(clients=2))
        >>> observation.clients, observation.batch_size
        (2, 4)
    """

    clients: Annotated[int, Ge(1), Le(MOST_CLIENTS)] = 4

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge that is granted, about all clients together."""
        return super().grants & Knowledge.names()

    @property
    def aggregation(self) -> Aggregation:
        """The rule that combines the clients' updates."""
        return WeightedMean()

    def sizes(self, count: int) -> list[int]:
        """Return the numbers of examples that one client may hold, each listed once."""
        least, more = divmod(count, self.clients)
        return sorted({size for size in (least, least + bool(more)) if size})

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `clients` equal clients train on the batch and return the observation.

        Raises:
            DataError: A client would have no example.
        """
        group = Group.of(client, self.clients, self.aggregation)
        group.check_split(len(batch))
        return super().look(group, batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Quantized(Aggregator):
    """An aggregator whose clients quantize their updates to fixed-point numbers in [-clip, clip].

    The error of a number is at most half a step. The mean of running statistics, if granted, is not
    quantized.
    """

    bits: Count = 32
    clip: Positive = 16.0

    @property
    def fixed(self) -> FixedPoint:
        """The fixed-point numbers of the clients."""
        return FixedPoint(clip=self.clip, bits=self.bits)


@dataclass(frozen=True, kw_only=True)
class SecureAggregator(Quantized):
    """A server under secure aggregation. It sees masked vectors and can read only their weighted mean.

    It stands for a server of federated learning that uses the protocol of Bonawitz et al. Each
    client quantizes its update and masks it. The masks cancel in the sum. The batch and the mean
    are those of `Aggregator`.

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
        clients: Number of clients, from 1 to 128. All of them agree on keys with each other, which
            takes about 5 s for 128.
        bits: Bits of a fixed-point number, from 2 to 48.
        clip: Largest magnitude of an entry, above 0, in the update's own units. Larger entries are
            clamped.

    References:
        Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth. Practical Secure
        Aggregation for Privacy-Preserving Machine Learning. CCS 2017.

    Example:
        >>> import leakgauge as lg
        >>> threat = lg.SecureAggregator(clients=2, bits=20)
        >>> observation = lg.examples.observation(batch_size=4, threat=threat)
        >>> observation.clients, threat.fixed.step
        (2, 3.0517578125e-05)
    """

    clients: Annotated[int, Ge(1), Le(MOST_KEYED)] = 4

    @property
    def aggregation(self) -> SecureAggregation:
        """The protocol of Bonawitz et al. 2017."""
        return SecureAggregation(fixed=self.fixed)


@dataclass(frozen=True, kw_only=True)
class HomomorphicAggregator(Quantized):
    """A holder of the key under homomorphic encryption. It sees the decrypted mean of the updates.

    It stands for another client: clients share the key, and the server does not have it. This
    adversary sees only the ciphertext of the sum. The batch is that of `Aggregator`, and the
    mean equals that of `SecureAggregator` bit for bit. This threat model needs the package tenseal
    (`pip install 'leakgauge[he]'`).

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
        clients: Number of clients, from 1 to 1024.
        bits: Bits of a fixed-point number, from 2 to 48.
        clip: Largest magnitude of an entry, above 0, in the update's own units. Larger entries are
            clamped.

    References:
        Cheon, Kim, Kim, Song. Homomorphic Encryption for Arithmetic of Approximate Numbers.
        ASIACRYPT 2017.

    Example:
        >>> import leakgauge as lg
        >>> threat = lg.HomomorphicAggregator(clients=3)
        >>> sorted(threat.grants), threat.sizes(7)
        (['batch_size', 'defense', 'hyperparameters'], [2, 3])
    """

    @property
    def aggregation(self) -> HomomorphicEncryption:
        """The encryption scheme CKKS of Cheon et al. 2017."""
        return HomomorphicEncryption(fixed=self.fixed)


@dataclass(frozen=True, kw_only=True)
class MaskedUpdate(SecureAggregator):
    """A server under secure aggregation that attacks one masked vector. If the masks hold, it sees noise.

    It stands for a server that attacks before anything is unmasked. Use it to check the masks: no
    attack should score better than the blind control. The batch is that of one client. The masked
    vector is read as numbers in [-clip, clip]. The choice of range does not matter, because all
    masked values are equally likely.

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
        statistics: Must be False. Running statistics leave the client masked, as the update does.
        clients: Number of clients, from 1 to 128. All of them agree on keys with each other, which
            takes about 5 s for 128.
        bits: Bits of a fixed-point number, from 2 to 48.
        clip: Largest magnitude of an entry, above 0, in the update's own units. Larger entries are
            clamped.

    References:
        Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth. Practical Secure
        Aggregation for Privacy-Preserving Machine Learning. CCS 2017.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(threat=lg.MaskedUpdate(clients=2))
        >>> float(observation.update.tensors["linear0.weight"].abs().max()) <= 16.0
        True
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_statistics(self, "running statistics leave the client masked, as the update does")

    def sizes(self, count: int) -> list[int]:
        """Return all of `count`, because the batch is that of one client."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on the batch and return an observation with its masked vector as the update."""
        return Server.look(self, Concealed.of(client, self), batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class EncryptedUpdate(HomomorphicAggregator):
    """A server under homomorphic encryption, without the key. If the encryption holds, it sees noise.

    It stands for a server that attacks the ciphertexts of one client. Use it to check the
    encryption: no attack should score better than the blind control. The batch is that of one
    client. The adversary holds the model too, because the model at the start of training is usually
    known. For each entry of the update, it reads one number in [-clip, clip] from the ciphertexts.
    This threat model needs the package tenseal (`pip install 'leakgauge[he]'`).

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
        statistics: Must be False. Running statistics leave the client encrypted, as the update
            does.
        clients: Number of clients, from 1 to 1024.
        bits: Bits of a fixed-point number, from 2 to 48.
        clip: Largest magnitude of an entry, above 0, in the update's own units. Larger entries are
            clamped.

    References:
        Cheon, Kim, Kim, Song. Homomorphic Encryption for Arithmetic of Approximate Numbers.
        ASIACRYPT 2017.

    Example:
        >>> import leakgauge as lg
        >>> lg.EncryptedUpdate(clients=2).sizes(4)
        [4]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_statistics(self, "running statistics leave the client encrypted, as the update does")

    def sizes(self, count: int) -> list[int]:
        """Return all of `count`, because the batch is that of one client."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on the batch and return an observation with its ciphertexts as the update."""
        return Server.look(self, Concealed.of(client, self), batch, seeds=seeds)


@dataclass(frozen=True, kw_only=True, repr=False)
class Concealed(Client):
    """One of several equal clients, whose update leaves it as noise.

    Args:
        clients: Number of clients in the aggregation.
        aggregation: The protocol that conceals the update.
        clip: Range of the numbers [-clip, clip] that stand for the concealed values.
    """

    clients: int
    aggregation: Concealing
    clip: float

    @classmethod
    def of(cls, client: Client, threat: SecureAggregator | HomomorphicAggregator) -> Concealed:
        """Return `client` as a member of the aggregation that `threat` attacks."""
        same = {each.name: getattr(client, each.name) for each in fields(Client)}
        return cls(**same, clients=threat.clients, aggregation=threat.aggregation, clip=threat.clip)

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        update = super().share(model, batch, seeds=seeds)
        seen = self.aggregation.conceal(
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
