"""Keys, masks and sealed letters of secure aggregation: X25519, HKDF-SHA256, ChaCha20(-Poly1305).

Private keys are drawn from named seeds, so an audit can be repeated. This simulates the protocol.
Do not use it with real secrets.
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
"""Bytes of a private key, and bytes of the seed of a mask."""


@dataclass(frozen=True)
class KeyPair:
    """A pair of X25519 keys, derived from the 32 bytes of the private one."""

    private: bytes

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes, which other clients receive."""
        return X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def agree(self, public: bytes, purpose: str) -> bytes:
        """Return 32 secret bytes that only the owners of this key and of `public` can derive."""
        own = X25519PrivateKey.from_private_bytes(self.private)
        secret = own.exchange(X25519PublicKey.from_public_bytes(public))
        return HKDF(SHA256(), KEY, salt=None, info=purpose.encode()).derive(secret)


def draw_key(generator: torch.Generator) -> bytes:
    """Draw 32 random bytes."""
    drawn = torch.randint(0, 256, (KEY,), generator=generator, dtype=torch.uint8)
    return bytes(drawn.tolist())


def mask(seed: bytes, size: int) -> Tensor:
    """Expand a seed of 32 bytes to `size` uniform field elements. The generator is ChaCha20."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = torch.frombuffer(bytearray(stream.update(bytes(8 * size))), dtype=torch.int64)
    # 61 of 64 bits are used. The value p becomes 0, which is a bias of 2^-61.
    return (words & MODULUS) % MODULUS


def seal(secret: bytes, letter: bytes) -> bytes:
    """Encrypt and authenticate a letter. Each key seals only one letter, so the nonce may be zero."""
    return ChaCha20Poly1305(secret).encrypt(bytes(12), letter, None)


def unseal(secret: bytes, sealed: bytes) -> bytes:
    """Return the letter.

    Raises:
        cryptography.exceptions.InvalidTag: The sealed letter was changed.
    """
    return ChaCha20Poly1305(secret).decrypt(bytes(12), sealed, None)
