"""Keys, masks and sealed letters of secure aggregation: X25519, HKDF-SHA256, ChaCha20(-Poly1305).

Private keys are drawn from named seeds, so that an audit repeats: a simulation of the protocol, not
for use with real secrets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from leakgauge.federated.aggregation.finite_field import MODULUS

KEY = 32
"""Bytes of a private key, and of the seed of a mask."""


@dataclass(frozen=True)
class KeyPair:
    """A private X25519 key (32 bytes) and its public one."""

    private: bytes

    @property
    def public(self) -> bytes:
        """What is sent to others."""
        return X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def agree(self, public: bytes, purpose: str) -> bytes:
        """The 32 bytes that this key's owner and the owner of `public`, and nobody else, can derive."""
        own = X25519PrivateKey.from_private_bytes(self.private)
        secret = own.exchange(X25519PublicKey.from_public_bytes(public))
        return HKDF(SHA256(), KEY, salt=None, info=purpose.encode()).derive(secret)


def key(generator: torch.Generator) -> bytes:
    """32 bytes."""
    drawn = torch.randint(0, 256, (KEY,), generator=generator, dtype=torch.uint8)
    return bytes(drawn.tolist())


def mask(seed: bytes, size: int) -> Tensor:
    """`size` field elements, uniform, that 32 bytes of seed expand to: ChaCha20 as pseudorandom generator."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = torch.frombuffer(bytearray(stream.update(bytes(8 * size))), dtype=torch.int64)
    # 61 of 64 bits; p itself stands for 0, as p is 0: a bias of 2^-61.
    return (words & MODULUS) % MODULUS


def seal(secret: bytes, letter: bytes) -> bytes:
    """Encrypt and authenticate; each key seals one letter alone, so that its nonce may be zero."""
    return ChaCha20Poly1305(secret).encrypt(bytes(12), letter, None)


def unseal(secret: bytes, sealed: bytes) -> bytes:
    """The letter. Raises cryptography's InvalidTag where it was tampered with."""
    return ChaCha20Poly1305(secret).decrypt(bytes(12), sealed, None)
