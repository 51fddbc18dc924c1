"""Homomorphic encryption of updates by CKKS. Cheon, Kim, Kim, Song: Homomorphic Encryption for Arithmetic of
Approximate Numbers, ASIACRYPT 2017; computed by Microsoft SEAL, as the package tenseal holds it.

    client u:     c_u = Enc(n_u k_u),   k_u its update x_u in fixed point
    server:       c = sum_u c_u,        without the key
    key holders:  round(Dec(c)) / sum_u n_u

CKKS's own error is far below one integer, so that rounding takes it away: the mean is exactly that of
`SecureAggregation` with the same fixed point. And what is decrypted then tells nothing of that error, from which
whoever holds the ciphertexts works out the key: Li, Micciancio: On the Security of Homomorphic Encryption on
Approximate Numbers, EUROCRYPT 2021.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from leakgauge.core import Seeds, SpecificationError, Update, UpdateError
from leakgauge.federated.aggregation.finite_field import FixedPoint
from leakgauge.federated.aggregation.sums import check_alike
from leakgauge.federated.aggregation.vectors import flat, shaped

MOST_BITS = {4096: 109, 8192: 218, 16384: 438}
"""Bits of all primes together that leave 128 bits of security, by degree (HomomorphicEncryption.org's standard, 2018,
secret keys of -1, 0, 1, classical attacks)."""
MOST_UNIT = 40
"""An integer is worth at most 2^40: encoding computes in float64, and more would only add rounding."""
SPREADS = 8
"""By how many standard deviations of CKKS's error half an integer must exceed it."""


@dataclass(frozen=True, kw_only=True)
class CKKS:
    """Polynomials of `degree` N coefficients, modulo primes of so many bits, the last of which serves encryption alone.

    A ciphertext holds N / 2 numbers. The security level is 128 bits: more bits than `MOST_BITS` are refused.
    Sums need one prime besides the last.
    """

    degree: int = 4096
    primes: tuple[int, ...] = (60, 49)

    def __post_init__(self) -> None:
        most = MOST_BITS.get(self.degree)
        sound = len(self.primes) > 1 and all(20 <= bits <= 60 for bits in self.primes)
        if most is None or not sound or sum(self.primes) > most:
            raise SpecificationError(
                "CKKS",
                expected="two or more primes of 20 to 60 bits, together at most "
                + ", ".join(f"{bits} at degree {n}" for n, bits in MOST_BITS.items()),
                found=f"primes of {', '.join(map(str, self.primes))} bits at degree {self.degree}",
                remedy="raise the degree, or take fewer or smaller primes",
            )

    @property
    def slots(self) -> int:
        """How many numbers a ciphertext holds."""
        return self.degree // 2

    def spread(self, clients: int) -> float:
        """About the standard deviation of a sum's error, in what 1 is encoded as: that of rounding by the last prime.

        A coefficient of it has variance (1 + 2 N / 3) / 12, and N / 2 of them meet in a number.
        """
        return math.sqrt(clients * (1 + 2 * self.degree / 3) / 12 * self.degree / 2)

    def unit(self, largest: int, clients: int) -> float:
        """What 1 is encoded as, where sums go to `largest`. Raises UpdateError where it would drown in the error."""
        room = sum(self.primes[:-1]) - 2 - math.ceil(math.log2(largest))
        unit = 2.0 ** min(room, MOST_UNIT)
        if unit / 2 < SPREADS * self.spread(clients):
            raise UpdateError(
                "homomorphic encryption",
                expected=f"sums up to 2^{room + math.floor(math.log2(unit))} or so in {self!r}",
                found=f"up to {largest:.3g}",
                remedy="lower bits, or take more primes at a larger degree",
            )
        return unit


@dataclass(frozen=True)
class Measured:
    """One run. Seconds of the CPU and bytes are those of all clients together, but for `add` and `decrypt`.

    `keys`: to make them, once; `encrypt` includes encoding. `encrypted`: bytes of all ciphertexts sent,
    as SEAL saves them; `plain`: of the updates as they are. `off`: how far from an integer what was decrypted
    is, at most; at 1/2 it would be rounded wrongly.
    """

    update: Update
    keys: float
    encrypt: float
    add: float
    decrypt: float
    encrypted: int
    plain: int
    off: float


@dataclass(frozen=True, kw_only=True)
class HomomorphicEncryption:
    """The weighted mean over clients, of which the server sees ciphertexts alone, and the key holders the sum.

    The clients hold one key pair together: whoever is given it opens every update. Counts are not encrypted.
    A simulation, not for production: keys and errors derive from the seeds, so that equal seeds give equal bits.
    """

    fixed: FixedPoint = field(default_factory=FixedPoint)
    ckks: CKKS = field(default_factory=CKKS)

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """The weighted mean, to half a quantization step where no entry exceeds `fixed.clip`."""
        return self.run(updates, counts, seeds=seeds).update

    def run(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Measured:
        """Encrypt, add and decrypt. Raises UpdateError where updates do not fit, or a sum has no room.

        Raises SpecificationError without the package tenseal.
        """
        check_alike(updates, counts)
        unit = self.ckks.unit(self.fixed.levels * sum(counts), len(updates))
        vectors = [
            self.integers(update, count, seeds.child(f"member/{i}"))
            for i, (update, count) in enumerate(zip(updates, counts, strict=True))
        ]
        with timed() as making:
            keys = Keys(self.ckks, seeds)
        clocks, sent = [], []
        for i, vector in enumerate(vectors):
            own = seeds.child(f"member/{i}")
            ciphertexts, spent = keys.encrypt(vector, unit, own)
            clocks.append(spent)
            sent.append(ciphertexts)
        size = saved_bytes(sent[0][0]) * sum(map(len, sent))
        with timed() as adding:
            total = keys.add(sent)
        with timed() as decrypting:
            decrypted = keys.decrypt(total)[: len(vectors[0])]
        rounded = decrypted.round()
        mean = self.fixed.decode(rounded.to(torch.int64)) / sum(counts)
        return Measured(
            update=Update(shaped(mean, updates[0].tensors), updates[0].kind),
            keys=making[0],
            encrypt=sum(clocks),
            add=adding[0],
            decrypt=decrypting[0],
            encrypted=size,
            plain=sum(t.nbytes for update in updates for t in update.tensors.values()),
            off=float((decrypted - rounded).abs().max()),
        )

    def concealed(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """(d,) in [-1, 1]: as many numbers of what the first of `clients` clients alike sends, of q residues each.

        Those of the first polynomial of each ciphertext, of which the numbers inside are an unknown part.
        """
        unit = self.ckks.unit(self.fixed.levels * count * clients, clients)
        own = seeds.child("member/0")
        vector = self.integers(update, count, own)
        keys = Keys(self.ckks, seeds)
        ciphertexts, _ = keys.encrypt(vector, unit, own)
        wanted = [self.ckks.slots] * len(ciphertexts)
        wanted[-1] = len(vector) - self.ckks.slots * (len(ciphertexts) - 1)
        found = [c[i] for c, n in zip(ciphertexts, wanted, strict=True) for i in range(n)]
        return torch.tensor(found, dtype=torch.float64) / keys.modulus * 2 - 1

    def integers(self, update: Update, count: int, seeds: Seeds) -> Tensor:
        """(d,) int64: n_u times the update in fixed point."""
        generator = seeds.generator("rounding")
        return self.fixed.encode(flat(update.tensors), generator=generator) * count


class Keys:
    """One key pair, and what each side does with its part.

    Raises SpecificationError without the package tenseal.
    """

    def __init__(self, ckks: CKKS, seeds: Seeds) -> None:
        self.ckks, self.seal = ckks, sealapi()
        self.context = self._context(seeds.integer("keys"))
        made = self.seal.KeyGenerator(self.context)
        self.secret, self.public = made.secret_key(), self.seal.PublicKey()
        made.create_public_key(self.public)
        self.encoder = self.seal.CKKSEncoder(self.context)

    @property
    def modulus(self) -> int:
        """The first prime."""
        primes = self.seal.CoeffModulus.Create(self.ckks.degree, list(self.ckks.primes))
        return int(primes[0].value())

    def encrypt(self, vector: Tensor, unit: float, seeds: Seeds) -> tuple[list[Any], float]:
        """(d,) integers as ciphertexts, N / 2 in each, and the seconds that this took but for seeding."""
        found, spent = [], 0.0
        for i, chunk in enumerate(torch.split(vector.double(), self.ckks.slots)):
            # SEAL begins its generator anew at each encryption: one seed for two would cancel what hides both.
            encryptor = self.seal.Encryptor(
                self._context(seeds.integer(f"ciphertext/{i}")), self.public
            )
            with timed() as clock:
                plain, ciphertext = self.seal.Plaintext(), self.seal.Ciphertext()
                self.encoder.encode(chunk.tolist(), unit, plain)
                encryptor.encrypt(plain, ciphertext)
            found.append(ciphertext)
            spent += clock[0]
        return found, spent

    def add(self, sent: Sequence[Sequence[Any]]) -> list[Any]:
        """The sums of all clients' ciphertexts, place by place: the server's part, without a key."""
        evaluator, total = self.seal.Evaluator(self.context), []
        for column in zip(*sent, strict=True):
            one = self.seal.Ciphertext()
            evaluator.add_many(list(column), one)
            total.append(one)
        return total

    def decrypt(self, total: Sequence[Any]) -> Tensor:
        """The numbers inside, float64, N / 2 for each ciphertext."""
        decryptor, found = self.seal.Decryptor(self.context, self.secret), []
        for ciphertext in total:
            plain = self.seal.Plaintext()
            decryptor.decrypt(ciphertext, plain)
            decoded = self.encoder.decode_double(plain)
            found.append(torch.tensor(decoded, dtype=torch.float64))
        return torch.cat(found)

    def _context(self, seed: int) -> Any:
        """The parameters, with a generator of this seed behind them."""
        given = self.seal.EncryptionParameters(self.seal.SCHEME_TYPE.CKKS)
        given.set_poly_modulus_degree(self.ckks.degree)
        given.set_coeff_modulus(
            self.seal.CoeffModulus.Create(self.ckks.degree, list(self.ckks.primes))
        )
        given.set_random_generator(self.seal.Blake2xbPRNGFactory([seed, *[0] * 7]))
        return self.seal.SEALContext(given, True, self.seal.SEC_LEVEL_TYPE.TC128)


def saved_bytes(ciphertext: Any) -> int:
    """How long a ciphertext is as SEAL saves it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ciphertext"
        ciphertext.save(str(path))
        return path.stat().st_size


@contextmanager
def timed() -> Iterator[list[float]]:
    """The CPU seconds that passed inside, as the one entry of a list, afterwards."""
    spent: list[float] = []
    clock = time.process_time()
    yield spent
    spent.append(time.process_time() - clock)


def sealapi() -> Any:
    """SEAL, as tenseal holds it. Raises SpecificationError without that package."""
    try:
        from tenseal import sealapi as found
    except ImportError as error:
        raise SpecificationError(
            "homomorphic encryption",
            expected="the package tenseal",
            found="none that can be imported",
            remedy="install it: pip install 'leakgauge[he]'",
        ) from error
    return found


__all__ = ["CKKS", "HomomorphicEncryption", "Measured"]
