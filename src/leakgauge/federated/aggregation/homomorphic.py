"""Homomorphic encryption of updates by CKKS, computed by Microsoft SEAL through the package tenseal."""

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
from leakgauge.federated.aggregation.sums import check_compatible
from leakgauge.federated.aggregation.vectors import flat, shaped

MOST_BITS = {4096: 109, 8192: 218, 16384: 438}
"""Most bits of all primes together, by degree, for 128 bits of security.

From the standard of HomomorphicEncryption.org (2018), for ternary secret keys and classical attacks.
"""
MOST_UNIT = 40
"""Largest exponent of the scale, which is at most 2^40.

Encoding computes in float64, so a larger scale only adds rounding.
"""
SPREADS = 8
"""One half, the distance at which rounding goes wrong, must be at least this many standard
deviations of the error of CKKS.
"""


@dataclass(frozen=True, kw_only=True)
class CKKS:
    """Parameters of the CKKS encryption scheme, at a security level of 128 bits.

    A ciphertext is a pair of polynomials with N coefficients. It holds N / 2 numbers.

    Args:
        degree: Number of coefficients N of a polynomial: 4096, 8192 or 16384.
        primes: Bits of each prime of the modulus, from 20 to 60. At least two primes are needed: the
            last one serves encryption only. Together they may have 109 bits at degree 4096, 218 at
            8192, and 438 at 16384, as in the standard of HomomorphicEncryption.org.

    Raises:
        SpecificationError: The degree or a prime lies outside its range. Or the primes together have
            too many bits for 128 bits of security.

    References:
        Cheon, Kim, Kim, Song. Homomorphic Encryption for Arithmetic of Approximate Numbers. ASIACRYPT
        2017.

        Albrecht et al. Homomorphic Encryption Security Standard. HomomorphicEncryption.org, 2018.

    Example:
        >>> from leakgauge.federated import CKKS
        >>> CKKS(degree=8192, primes=(60, 49, 60)).slots
        4096
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
                remedy="raise the degree, or use fewer or smaller primes",
            )

    @property
    def slots(self) -> int:
        """The number of values in a ciphertext, N / 2."""
        return self.degree // 2

    def spread(self, clients: int) -> float:
        """Return the approximate standard deviation of the error of a sum over `clients`.

        The unit is that of encoded numbers, see `unit`. The error comes from rounding by the last
        prime. One coefficient of the error has the variance `(1 + 2 N / 3) / 12`, and N / 2
        coefficients add up in one number.
        """
        return math.sqrt(clients * (1 + 2 * self.degree / 3) / 12 * self.degree / 2)

    def unit(self, largest: int, clients: int) -> float:
        """Return the scale: the number that 1 is encoded as.

        Args:
            largest: Largest magnitude of a sum, in integers.
            clients: Number of clients in the sum.

        Raises:
            UpdateError: The scale is so small that the error could change a rounded sum.
        """
        room = sum(self.primes[:-1]) - 2 - math.ceil(math.log2(largest))
        unit = 2.0 ** min(room, MOST_UNIT)
        if unit / 2 < SPREADS * self.spread(clients):
            raise UpdateError(
                "homomorphic encryption",
                expected=f"sums up to about 2^{room + math.floor(math.log2(unit))} in {self!r}",
                found=f"sums up to {largest:.3g}",
                remedy="lower bits, or use more primes at a larger degree",
            )
        return unit


@dataclass(frozen=True)
class Measured:
    """The result and the costs of one run. Times are seconds of CPU time.

    Args:
        update: The weighted mean.
        keys: Time to generate the one key pair.
        encrypt: Time of all clients together, to encode and encrypt.
        add: Time of the server, to add the ciphertexts.
        decrypt: Time of a key holder, to decrypt the sum.
        encrypted: Bytes of all ciphertexts, as SEAL saves them.
        plain: Bytes of all updates without encryption.
        off: Largest distance of a decrypted number from the nearest integer. Rounding is reliable
            if it is far below 1/2.
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
    r"""The weighted mean over clients, computed on ciphertexts.

    The server sees only ciphertexts. All clients share one key pair, and decrypt only the sum. But
    anyone with the secret key can decrypt every single update. The numbers of examples are not
    encrypted.

    .. math::

        c_u = \mathrm{Enc}(n_u k_u), \qquad c = \sum_u c_u, \qquad
        \bar{x} = \Delta \, \frac{\mathrm{round}(\mathrm{Dec}(c))}{\sum_u n_u}

    Client :math:`u` has :math:`n_u` examples and sends :math:`c_u`. Its update in integers is
    :math:`k_u`, see `FixedPoint`, and :math:`\Delta` is the step of one integer. The server computes
    :math:`c` without the key. The key holders compute the mean :math:`\bar{x}`.

    The error of CKKS is far below one integer, so rounding removes it. The mean is exactly that of
    `SecureAggregation` with the same fixed point. Rounding also hides the error. With the error and
    the ciphertexts, an adversary can compute the secret key (Li and Micciancio).

    This is a simulation, not for production. Keys and errors derive from the seeds, so equal seeds
    give equal bits. It needs the package tenseal.

    Args:
        fixed: The fixed-point numbers of an update.
        ckks: The parameters of the encryption.

    References:
        Cheon, Kim, Kim, Song. Homomorphic Encryption for Arithmetic of Approximate Numbers. ASIACRYPT
        2017.

        Li, Micciancio. On the Security of Homomorphic Encryption on Approximate Numbers. EUROCRYPT
        2021.

    Example:
        >>> from leakgauge.federated import HomomorphicEncryption
        >>> aggregation = HomomorphicEncryption()
        >>> aggregation.ckks.degree, aggregation.fixed.bits
        (4096, 32)
    """

    fixed: FixedPoint = field(default_factory=FixedPoint)
    ckks: CKKS = field(default_factory=CKKS)

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """Return the weighted mean, see `run`.

        The error is at most half a step of `fixed` if no entry exceeds `fixed.clip` in magnitude.
        """
        return self.run(updates, counts, seeds=seeds).update

    def run(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Measured:
        """Encrypt, add and decrypt updates, and measure the costs.

        Args:
            updates: The update of each client.
            counts: The number of examples of each client, at least 1.
            seeds: Seeds of the keys, the encryption and the rounding.

        Raises:
            UpdateError: The updates do not fit together, or the sum is too large for the parameters.
            SpecificationError: The package tenseal is missing.
        """
        check_compatible(updates, counts)
        unit = self.ckks.unit(self.fixed.levels * sum(counts), len(updates))
        vectors = [
            self.integers(update, count, seeds.child(f"member/{i}"))
            for i, (update, count) in enumerate(zip(updates, counts, strict=True))
        ]
        with measure_time() as making:
            keys = Keys(self.ckks, seeds)
        clocks, sent = [], []
        for i, vector in enumerate(vectors):
            own = seeds.child(f"member/{i}")
            ciphertexts, spent = keys.encrypt(vector, unit, own)
            clocks.append(spent)
            sent.append(ciphertexts)
        size = saved_bytes(sent[0][0]) * sum(map(len, sent))
        with measure_time() as adding:
            total = keys.add(sent)
        with measure_time() as decrypting:
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

    def conceal(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """Return d numbers in [-1, 1] from the ciphertexts of the first of `clients` equal clients.

        The update has d entries. The numbers are coefficients of the first polynomial of each
        ciphertext, modulo the first prime, and scaled. The encrypted values are an unknown part of
        these coefficients.
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
        """Return the update in fixed point times `count`, as int64 integers (d,)."""
        generator = seeds.generator("rounding")
        return self.fixed.encode(flat(update.tensors), generator=generator) * count


class Keys:
    """One key pair, with the operations of the clients, the server and the key holders.

    Args:
        ckks: The parameters of the encryption.
        seeds: Seeds of the keys.

    Raises:
        SpecificationError: The package tenseal is missing.
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
        """The first prime of the modulus."""
        primes = self.seal.CoeffModulus.Create(self.ckks.degree, list(self.ckks.primes))
        return int(primes[0].value())

    def encrypt(self, vector: Tensor, unit: float, seeds: Seeds) -> tuple[list[Any], float]:
        """Encrypt integers (d,) with the scale `unit`, N / 2 in each ciphertext.

        Returns:
            The ciphertexts, and the seconds of CPU time without seeding.
        """
        found, spent = [], 0.0
        for i, chunk in enumerate(torch.split(vector.double(), self.ckks.slots)):
            # SEAL restarts its generator for each encryption. With one seed for two ciphertexts, their
            # difference would cancel the random part that hides both.
            encryptor = self.seal.Encryptor(
                self._context(seeds.integer(f"ciphertext/{i}")), self.public
            )
            with measure_time() as clock:
                plain, ciphertext = self.seal.Plaintext(), self.seal.Ciphertext()
                self.encoder.encode(chunk.tolist(), unit, plain)
                encryptor.encrypt(plain, ciphertext)
            found.append(ciphertext)
            spent += clock[0]
        return found, spent

    def add(self, sent: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the sums of the ciphertexts of all clients. The server does this without a key."""
        evaluator, total = self.seal.Evaluator(self.context), []
        for column in zip(*sent, strict=True):
            one = self.seal.Ciphertext()
            evaluator.add_many(list(column), one)
            total.append(one)
        return total

    def decrypt(self, total: Sequence[Any]) -> Tensor:
        """Return the decrypted numbers in float64, N / 2 for each ciphertext."""
        decryptor, found = self.seal.Decryptor(self.context, self.secret), []
        for ciphertext in total:
            plain = self.seal.Plaintext()
            decryptor.decrypt(ciphertext, plain)
            decoded = self.encoder.decode_double(plain)
            found.append(torch.tensor(decoded, dtype=torch.float64))
        return torch.cat(found)

    def _context(self, seed: int) -> Any:
        """Build the context of SEAL with a random generator of this seed."""
        given = self.seal.EncryptionParameters(self.seal.SCHEME_TYPE.CKKS)
        given.set_poly_modulus_degree(self.ckks.degree)
        given.set_coeff_modulus(
            self.seal.CoeffModulus.Create(self.ckks.degree, list(self.ckks.primes))
        )
        given.set_random_generator(self.seal.Blake2xbPRNGFactory([seed, *[0] * 7]))
        return self.seal.SEALContext(given, True, self.seal.SEC_LEVEL_TYPE.TC128)


def saved_bytes(ciphertext: Any) -> int:
    """Return the bytes of a ciphertext, as SEAL saves it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ciphertext"
        ciphertext.save(str(path))
        return path.stat().st_size


@contextmanager
def measure_time() -> Iterator[list[float]]:
    """Measure the CPU time of the code inside. On exit, the yielded list has one entry, in seconds."""
    spent: list[float] = []
    clock = time.process_time()
    yield spent
    spent.append(time.process_time() - clock)


def sealapi() -> Any:
    """Return the module of SEAL inside tenseal, or raise SpecificationError if tenseal is missing."""
    try:
        from tenseal import sealapi as found
    except ImportError as error:
        raise SpecificationError(
            "homomorphic encryption",
            expected="the package tenseal",
            found="no package that can be imported",
            remedy="install it: pip install 'leakgauge[he]'",
        ) from error
    return found


__all__ = ["CKKS", "HomomorphicEncryption", "Measured"]
