"""Secure aggregation: the server learns the sum of masked updates, and no single update."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakgauge.core import Seeds, Update, UpdateError
from leakgauge.core.ranges import Count
from leakgauge.federated.aggregation.finite_field import (
    MODULUS,
    FixedPoint,
    add,
    subtract,
    to_field,
    to_integers,
)
from leakgauge.federated.aggregation.masking import KEY, KeyPair, draw_key, mask, seal, unseal
from leakgauge.federated.aggregation.secret_sharing import SIZE, join, split
from leakgauge.federated.aggregation.sums import check_compatible
from leakgauge.federated.aggregation.vectors import flat, shaped

PublicKeys = tuple[bytes, bytes]
"""Two public keys of a client: one seals letters, the other derives pairwise masks."""


@dataclass(frozen=True)
class Revealed:
    """Shares that one client sends in the last round.

    Args:
        keys: Shares of the private mask keys of clients that dropped out, by client.
        seeds: Shares of the seeds of the other clients' own masks, by client.
    """

    keys: dict[int, int] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Transcript:
    """Every message that the server sees, by the client that sent it.

    Args:
        directory: The public keys.
        sealed: The sealed letters, by receiver.
        masked: The masked vectors (d + 1,).
        revealed: The revealed shares.
    """

    directory: dict[int, PublicKeys]
    sealed: dict[int, dict[int, bytes]]
    masked: dict[int, Tensor]
    revealed: dict[int, Revealed]


class Member:
    """One client in one run of the protocol. It holds its secrets and answers the server's four rounds.

    Args:
        own: Index of the client, from 0.
        threshold: Number of clients that must stay to the end.
        seeds: Seeds of the client's secrets.
    """

    def __init__(self, own: int, threshold: int, seeds: Seeds) -> None:
        self.own, self.threshold, self.seeds = own, threshold, seeds
        self.letters = KeyPair(draw_key(seeds.generator("letter key")))
        self.masks = KeyPair(draw_key(seeds.generator("mask key")))
        self.seed = draw_key(seeds.generator("own mask"))
        self.directory: dict[int, PublicKeys] = {}
        self.held: dict[int, tuple[int, int]] = {}

    def advertise(self) -> PublicKeys:
        """Return the two public keys. This is round 0."""
        return self.letters.public, self.masks.public

    def share_keys(self, directory: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Return a sealed letter for each client. This is round 1.

        A letter holds a share of the private mask key, and a share of the seed of the own mask.
        """
        self.directory = dict(directory)
        holders = [other + 1 for other in directory]
        of_key, of_seed = (
            split(
                int.from_bytes(secret, "big"),
                holders,
                self.threshold,
                generator=self.seeds.generator(name),
            )
            for name, secret in (("key shares", self.masks.private), ("seed shares", self.seed))
        )
        return {
            other: seal(
                self.letters.agree(directory[other][0], f"from {self.own} to {other}"),
                of_key[other + 1].to_bytes(SIZE, "big") + of_seed[other + 1].to_bytes(SIZE, "big"),
            )
            for other in directory
        }

    def mask(self, vector: Tensor, letters: Mapping[int, bytes]) -> Tensor:
        """Return the masked vector, and keep the letters. This is round 2.

        Args:
            vector: Field elements (d + 1,).
            letters: The letters of all clients that are still present, by sender.
        """
        for other, letter in letters.items():
            secret = self.letters.agree(self.directory[other][0], f"from {other} to {self.own}")
            opened = unseal(secret, letter)
            shares = int.from_bytes(opened[:SIZE], "big"), int.from_bytes(opened[SIZE:], "big")
            self.held[other] = shares
        masked = add(vector, mask(self.seed, len(vector)))
        for other in letters:
            if other != self.own:
                pair = pairwise_mask(self.masks, self.directory[other][1], len(vector))
                masked = add(masked, pair) if self.own < other else subtract(masked, pair)
        return masked

    def unmask(self, arrived: Collection[int]) -> Revealed:
        """Return shares of seeds of clients in `arrived`, and shares of keys of the rest. This is round 3.

        A share of a seed and a share of a key of one client are never revealed together.

        Raises:
            UpdateError: Fewer masked vectors arrived than the threshold.
        """
        check_threshold(len(arrived), self.threshold)
        return Revealed(
            keys={o: of_key for o, (of_key, _) in self.held.items() if o not in arrived},
            seeds={o: of_seed for o, (_, of_seed) in self.held.items() if o in arrived},
        )


def pairwise_mask(own: KeyPair, public: bytes, size: int) -> Tensor:
    """Return the mask of a pair of clients, from the private key of one and the public key of the other."""
    return mask(own.agree(public, "pairwise mask"), size)


def unmasked_sum(transcript: Transcript, threshold: int) -> Tensor:
    """Return the sum of the vectors that arrived, as signed integers. The server can compute it.

    Raises:
        UpdateError: Fewer clients than the threshold revealed their shares.
    """
    check_threshold(len(transcript.revealed), threshold)
    vectors = transcript.masked
    size = len(next(iter(vectors.values())))
    total = torch.zeros(size, dtype=torch.int64)
    for own, vector in vectors.items():
        shares = {holder + 1: r.seeds[own] for holder, r in transcript.revealed.items()}
        total = add(total, subtract(vector, mask(join(shares).to_bytes(KEY, "big"), size)))
    for lost in transcript.sealed.keys() - vectors.keys():
        shares = {holder + 1: r.keys[lost] for holder, r in transcript.revealed.items()}
        pair = KeyPair(join(shares).to_bytes(KEY, "big"))
        for own in vectors:
            left = pairwise_mask(pair, transcript.directory[own][1], size)
            total = subtract(total, left) if own < lost else add(total, left)
    return to_integers(total)


def check_threshold(count: int, threshold: int) -> None:
    """Raise UpdateError if `count` clients are too few to join the shares of a secret."""
    if count < threshold:
        raise UpdateError(
            "secure aggregation",
            expected=f"at least {threshold} clients that stay to the end",
            found=f"{count} clients",
            remedy="lower the threshold, or let fewer clients drop out",
        )


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    r"""The weighted mean over clients, computed from masked updates.

    The server sees masked vectors and their sum, and no single update. The server is honest but
    curious. Addition is in a finite field:

    .. math::

        y_u = x_u + \mathrm{PRG}(b_u) + \sum_{v > u} \mathrm{PRG}(s_{uv})
        - \sum_{v < u} \mathrm{PRG}(s_{uv})

    Client :math:`u` sends :math:`y_u` once. :math:`x_u` holds its number of examples :math:`n_u`, and
    :math:`n_u` times its update in fixed point. So the sum reveals only the weighted mean and the
    total number of examples. Clients :math:`u` and :math:`v` agree on the secret :math:`s_{uv}` from
    their key pairs. The pairwise masks cancel in the sum.

    :math:`b_u` is the seed of the client's own mask. The other clients hold shares of it, and shares
    of the client's private key. If :math:`y_u` arrives, they reveal :math:`b_u`. If the client dropped
    out, they reveal its private key, and the server removes its pairwise masks. They never reveal
    both.

    This simulates the protocol, and protects nobody: the secrets derive from the seeds of the audit.

    Args:
        fixed: The fixed-point numbers of an update.
        threshold: Number of clients that must stay to the end. None needs more than half of them.
        most_examples: Largest number of examples that one client may state.

    References:
        Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth. Practical Secure
        Aggregation for Privacy-Preserving Machine Learning. CCS 2017, figure 4.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.federated import SecureAggregation
        >>> updates = [lg.Update({"w": torch.tensor([x])}) for x in (1.0, 4.0)]
        >>> mean = SecureAggregation()(updates, [2, 1], seeds=lg.Seeds(0))
        >>> round(float(mean.tensors["w"]), 6)
        2.0
    """

    fixed: FixedPoint = field(default_factory=FixedPoint)
    threshold: Count | None = None
    most_examples: Count = 65536

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """Return the weighted mean, see `run`.

        The error is at most half a step of `fixed` if no entry exceeds `fixed.clip` in magnitude.
        """
        return self.mean(self.run(updates, counts, seeds=seeds), updates[0])

    def run(
        self,
        updates: Sequence[Update],
        counts: Sequence[int],
        *,
        seeds: Seeds,
        lost: Collection[int] = (),
        late: Collection[int] = (),
    ) -> Transcript:
        """Run the protocol among all clients, and return every message that the server sees.

        Args:
            updates: The update of each client.
            counts: The number of examples of each client, at least 1.
            seeds: Seeds of the clients' secrets and of the rounding.
            lost: Clients that drop out before they send their masked vector.
            late: Clients that drop out after they sent it.

        Raises:
            UpdateError: The updates do not fit together, the sum could overflow, or too few clients
                stay.
        """
        check_compatible(updates, counts)
        self.check(len(updates), max(counts))
        members, directory, sealed = self.meet(len(updates), seeds)
        masked = {}
        for member in members:
            if member.own not in lost:
                letters = {sender: sealed[sender][member.own] for sender in sealed}
                vector = self.vector(updates[member.own], counts[member.own], member.seeds)
                masked[member.own] = member.mask(vector, letters)
        staying = [member for member in members if member.own in masked and member.own not in late]
        revealed = {member.own: member.unmask(masked) for member in staying}
        check_threshold(len(revealed), self.quorum(len(members)))
        return Transcript(directory, sealed, masked, revealed)

    def meet(
        self, clients: int, seeds: Seeds
    ) -> tuple[list[Member], dict[int, PublicKeys], dict[int, dict[int, bytes]]]:
        """Run rounds 0 and 1. Return the members, their public keys, and their sealed letters by sender."""
        quorum = self.quorum(clients)
        members = [Member(i, quorum, seeds.child(f"member/{i}")) for i in range(clients)]
        directory = {member.own: member.advertise() for member in members}
        return members, directory, {m.own: m.share_keys(directory) for m in members}

    def masked(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """Return the masked vector (d,) of the first of `clients` clients, without its count."""
        self.check(clients, count)
        members, _, sealed = self.meet(clients, seeds)
        letters = {sender: sealed[sender][0] for sender in sealed}
        return members[0].mask(self.vector(update, count, members[0].seeds), letters)[:-1]

    def conceal(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """Return the masked vector (d,) of the first client, scaled from the field to [-1, 1]."""
        masked = self.masked(update, count, clients=clients, seeds=seeds)
        return to_integers(masked).double() / (MODULUS // 2)

    def mean(self, transcript: Transcript, like: Update) -> Update:
        """Return the weighted mean of the updates that arrived, with the names, shapes and types of `like`."""
        total = unmasked_sum(transcript, self.quorum(len(transcript.directory)))
        mean = self.fixed.decode(total[:-1]) / int(total[-1])
        return Update(shaped(mean, like.tensors), like.kind)

    def vector(self, update: Update, count: int, seeds: Seeds) -> Tensor:
        """Return field elements (d + 1,): the update in fixed point times `count`, then `count`."""
        generator = seeds.generator("rounding")
        integers = self.fixed.encode(flat(update.tensors), generator=generator)
        return to_field(torch.cat([integers, torch.ones(1, dtype=torch.int64)]) * count)

    def quorum(self, clients: int) -> int:
        """Return the number of clients that must stay to the end."""
        return clients // 2 + 1 if self.threshold is None else self.threshold

    def check(self, clients: int, count: int) -> None:
        """Raise UpdateError if a client states too many examples, or if the sum could overflow."""
        if count > self.most_examples:
            raise UpdateError(
                "secure aggregation",
                expected=f"at most {self.most_examples} examples a client",
                found=f"{count} examples",
                remedy="raise most_examples",
            )
        self.fixed.check(clients * self.most_examples)


__all__ = ["Member", "Revealed", "SecureAggregation", "Transcript", "unmasked_sum"]
