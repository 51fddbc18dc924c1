"""Vectors over the prime field of 2^61 - 1 elements, and fixed-point numbers in them.

Elements are int64 tensors of values 0 .. p - 1: the sum of two stays below 2^62, so int64 holds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import SpecificationError, UpdateError
from leakgauge.core.ranges import Count, Positive

MODULUS = 2**61 - 1
"""A Mersenne prime."""
MOST_BITS = 48
"""A float64 still tells all of so many bits apart when it is scaled and rounded."""


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, of elements."""
    return (a + b) % MODULUS


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """a - b, of elements."""
    return (a - b) % MODULUS


def to_field(integers: Tensor) -> Tensor:
    """Signed int64 integers, of magnitude under p / 2, as elements: negative ones from the top."""
    return integers % MODULUS


def to_integers(elements: Tensor) -> Tensor:
    """The inverse of `to_field`."""
    return torch.where(elements > MODULUS // 2, elements - MODULUS, elements)


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Numbers in [-clip, clip] as multiples of a step clip / 2^(bits - 1); those beyond saturate.

    `nearest` rounds by at most half a step, `stochastic` by less than one, and without bias.
    """

    clip: Positive = 16.0
    bits: Count = 32
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0 and 2 <= self.bits <= MOST_BITS):
            raise SpecificationError(
                "fixed point",
                expected=f"clip > 0 and 2 to {MOST_BITS} bits",
                found=f"clip {self.clip:g} and {self.bits} bits",
                remedy="correct the value",
            )

    @property
    def levels(self) -> int:
        """The largest integer that a number can become."""
        return 1 << (self.bits - 1)

    @property
    def step(self) -> float:
        """What one integer is worth."""
        return self.clip / self.levels

    def check(self, examples: int) -> None:
        """Raise UpdateError where a sum of so many numbers, all of the largest, would overflow the field."""
        if examples * self.levels > MODULUS // 2:
            raise UpdateError(
                "secure aggregation",
                expected=f"at most {MODULUS // 2 // self.levels} numbers of {self.bits} bits in one sum",
                found=f"room needed for {examples}",
                remedy="lower bits, or the most examples that a client may count",
            )

    def encode(self, values: Tensor, *, generator: torch.Generator) -> Tensor:
        """Float values to int64 integers in -levels .. levels."""
        scaled = values.detach().cpu().double().clamp(-self.clip, self.clip) / self.step
        if self.rounding == "nearest":
            return scaled.round().to(torch.int64)
        up = torch.rand(scaled.shape, generator=generator, dtype=torch.float64)
        return (scaled + up).floor().clamp(max=self.levels).to(torch.int64)

    def decode(self, integers: Tensor) -> Tensor:
        """Integers to float64 values."""
        return integers.double() * self.step
