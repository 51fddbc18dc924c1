"""Secure aggregation. Bonawitz et al.: CCS 2017, figure 4, for an honest-but-curious server.

Client u holds x_u, and sends it once, masked, with addition in a finite field:

    y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)

s_uv is what u and v agree on from their key pairs, b_u is u's own. Pairwise masks cancel in the sum.
Shares of b_u and of u's private key lie with the others: once the server has y_u, they reveal b_u; where u
dropped out, they reveal its key instead, from which its pairwise masks are removed. Never both.

x_u is n_u times u's update in fixed point, and n_u itself: the sum tells the weighted mean and no more.
Secrets derive from the audit's seeds: it simulates the protocol, and protects nobody.
"""

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
from leakgauge.federated.aggregation.masking import KEY, KeyPair, key, mask, seal, unseal
from leakgauge.federated.aggregation.secret_sharing import SIZE, join, split
from leakgauge.federated.aggregation.sums import check_alike
from leakgauge.federated.aggregation.vectors import flat, shaped

PublicKeys = tuple[bytes, bytes]
"""One to seal letters with, one to derive masks from."""


@dataclass(frozen=True)
class Revealed:
    """Shares that one client sends at the end: of keys of those who dropped out, of mask seeds of the others."""

    keys: dict[int, int] = field(default_factory=dict)
    seeds: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Transcript:
    """Every message that passes the server, by client: all that it sees."""

    directory: dict[int, PublicKeys]
    sealed: dict[int, dict[int, bytes]]
    masked: dict[int, Tensor]
    revealed: dict[int, Revealed]


class Member:
    """One client in one run of the protocol: holds its secrets, and answers the server's four rounds."""

    def __init__(self, own: int, threshold: int, seeds: Seeds) -> None:
        self.own, self.threshold, self.seeds = own, threshold, seeds
        self.letters = KeyPair(key(seeds.generator("letter key")))
        self.masks = KeyPair(key(seeds.generator("mask key")))
        self.seed = key(seeds.generator("own mask"))
        self.directory: dict[int, PublicKeys] = {}
        self.held: dict[int, tuple[int, int]] = {}

    def advertise(self) -> PublicKeys:
        """Round 0: the two public keys."""
        return self.letters.public, self.masks.public

    def share_keys(self, directory: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Round 1: for each client, sealed, a share of the private mask key and of the seed of the own mask."""
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
        """Round 2: the masked vector; `letters` came from those who are still there, and are kept."""
        for other, letter in letters.items():
            secret = self.letters.agree(self.directory[other][0], f"from {other} to {self.own}")
            opened = unseal(secret, letter)
            shares = int.from_bytes(opened[:SIZE], "big"), int.from_bytes(opened[SIZE:], "big")
            self.held[other] = shares
        masked = add(vector, mask(self.seed, len(vector)))
        for other in letters:
            if other != self.own:
                pair = pairwise(self.masks, self.directory[other][1], len(vector))
                masked = add(masked, pair) if self.own < other else subtract(masked, pair)
        return masked

    def unmask(self, arrived: Collection[int]) -> Revealed:
        """Round 3: seed shares of those whose masked vector arrived, key shares of the rest. Never both.

        Raises UpdateError where fewer than the threshold arrived.
        """
        check_threshold(len(arrived), self.threshold)
        return Revealed(
            keys={o: of_key for o, (of_key, _) in self.held.items() if o not in arrived},
            seeds={o: of_seed for o, (_, of_seed) in self.held.items() if o in arrived},
        )


def pairwise(own: KeyPair, public: bytes, size: int) -> Tensor:
    """PRG(s_uv), from either side's private key and the other's public one."""
    return mask(own.agree(public, "pairwise mask"), size)


def unmasked_sum(transcript: Transcript, threshold: int) -> Tensor:
    """What the server computes of its transcript: the sum of the vectors that arrived, as signed integers.

    Raises UpdateError where fewer clients than the threshold revealed their shares.
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
            left = pairwise(pair, transcript.directory[own][1], size)
            total = subtract(total, left) if own < lost else add(total, left)
    return to_integers(total)


def check_threshold(count: int, threshold: int) -> None:
    """Raise UpdateError where too few clients are left for the secrets to be joined."""
    if count < threshold:
        raise UpdateError(
            "secure aggregation",
            expected=f"at least {threshold} clients to the end",
            found=str(count),
            remedy="lower the threshold or lose fewer clients",
        )


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """The weighted mean over clients, of which the server sees masked vectors and their sum.

    `threshold` clients must stay to the end: more than half of them, unless given. A client may
    count up to `most_examples`; one that claims more is refused.
    """

    fixed: FixedPoint = field(default_factory=FixedPoint)
    threshold: Count | None = None
    most_examples: Count = 65536

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """The weighted mean, to half a quantization step where no entry exceeds `fixed.clip`."""
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
        """The protocol among all clients, as the server sees it.

        Those in `lost` drop out before they send their masked vector, those in `late` afterwards.
        Raises UpdateError where updates do not fit, a sum might overflow, or too few clients stay.
        """
        check_alike(updates, counts)
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
        """Rounds 0 and 1: the members, their public keys, and their sealed letters by sender."""
        quorum = self.quorum(clients)
        members = [Member(i, quorum, seeds.child(f"member/{i}")) for i in range(clients)]
        directory = {member.own: member.advertise() for member in members}
        return members, directory, {m.own: m.share_keys(directory) for m in members}

    def masked(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """What the server gets from the first of `clients` clients alone: its masked vector, less the count."""
        self.check(clients, count)
        members, _, sealed = self.meet(clients, seeds)
        letters = {sender: sealed[sender][0] for sender in sealed}
        return members[0].mask(self.vector(update, count, members[0].seeds), letters)[:-1]

    def concealed(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """(d,) in [-1, 1]: that masked vector, its field scaled."""
        masked = self.masked(update, count, clients=clients, seeds=seeds)
        return to_integers(masked).double() / (MODULUS // 2)

    def mean(self, transcript: Transcript, like: Update) -> Update:
        """The weighted mean of the updates that arrived, with names, shapes and types as `like` has them."""
        total = unmasked_sum(transcript, self.quorum(len(transcript.directory)))
        mean = self.fixed.decode(total[:-1]) / int(total[-1])
        return Update(shaped(mean, like.tensors), like.kind)

    def vector(self, update: Update, count: int, seeds: Seeds) -> Tensor:
        """(d + 1,) field elements: n_u times the update in fixed point, and n_u."""
        generator = seeds.generator("rounding")
        integers = self.fixed.encode(flat(update.tensors), generator=generator)
        return to_field(torch.cat([integers, torch.ones(1, dtype=torch.int64)]) * count)

    def quorum(self, clients: int) -> int:
        """How many must stay to the end."""
        return clients // 2 + 1 if self.threshold is None else self.threshold

    def check(self, clients: int, count: int) -> None:
        """Raise UpdateError where a client counts too many examples, or the sum might overflow."""
        if count > self.most_examples:
            raise UpdateError(
                "secure aggregation",
                expected=f"at most {self.most_examples} examples a client",
                found=str(count),
                remedy="raise most_examples",
            )
        self.fixed.check(clients * self.most_examples)


__all__ = ["Member", "Revealed", "SecureAggregation", "Transcript", "unmasked_sum"]
