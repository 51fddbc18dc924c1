"""Secret sharing: any `threshold` of the holders know the secret, fewer know nothing. Shamir, CACM 22(11), 1979."""

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
    """For each holder x >= 1 the value at x of a random polynomial of degree threshold - 1 that is `secret` at 0."""
    coefficients = [secret, *(_element(generator) for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder) for holder in holders}


def join(shares: Mapping[int, int]) -> int:
    """The polynomial's value at 0, by Lagrange's formula; the secret where there are `threshold` shares or more."""
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
    # Eight bytes more than the prime has: what is left of bias is below 2^-64.
    drawn = torch.randint(0, 256, (SIZE + 8,), generator=generator, dtype=torch.uint8)
    return int.from_bytes(bytes(drawn.tolist()), "big") % PRIME


def _value(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
