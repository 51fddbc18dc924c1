"""Secret sharing: any `threshold` holders together know the secret, and fewer know nothing.

Shamir. How to Share a Secret. Communications of the ACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

PRIME = 2**521 - 1
"""A Mersenne prime, larger than any key of 32 bytes."""
SIZE = 66
"""Bytes of one share."""


def split(
    secret: int, holders: Sequence[int], threshold: int, *, generator: torch.Generator
) -> dict[int, int]:
    """Return a share of `secret` for each holder.

    The share of holder x is the value at x of a random polynomial of degree `threshold - 1`. The
    value at 0 is the secret.

    Args:
        secret: A number from 0 to `PRIME - 1`.
        holders: The positions x of the holders, at least 1.
        threshold: Number of shares that reveal the secret.
        generator: Source of the random coefficients.
    """
    coefficients = [secret, *(_element(generator) for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder) for holder in holders}


def join(shares: Mapping[int, int]) -> int:
    """Return the value of the polynomial at 0, by Lagrange's formula.

    This is the secret if there are at least `threshold` shares.
    """
    secret = 0
    for holder, share in shares.items():
        numerator = denominator = 1
        for other in shares:
            if other != holder:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - holder) % PRIME
        secret += share * numerator * pow(denominator, -1, PRIME)
    return secret % PRIME


def _element(generator: torch.Generator) -> int:
    """Draw a uniform element of the prime field."""
    # Eight bytes more than the prime has keep the bias of the remainder below 2^-64.
    drawn = torch.randint(0, 256, (SIZE + 8,), generator=generator, dtype=torch.uint8)
    return int.from_bytes(bytes(drawn.tolist()), "big") % PRIME


def _value(coefficients: Sequence[int], x: int) -> int:
    """Return the value of a polynomial at x, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
