"""Vectors over the prime field of `p = 2^61 - 1` elements, and fixed-point numbers in them.

Elements are int64 tensors with values from 0 to `p - 1`. The sum of two elements stays below 2^62,
so int64 holds it.
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
"""The prime p, a Mersenne prime."""
MOST_BITS = 48
"""Largest number of bits of a fixed-point number. Scaling and rounding in float64 is exact enough for 48 bits."""


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return `a + b` in the field."""
    return (a + b) % MODULUS


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """Return `a - b` in the field."""
    return (a - b) % MODULUS


def to_field(integers: Tensor) -> Tensor:
    """Map signed int64 integers below `p / 2` in magnitude to elements. A negative k becomes `p + k`."""
    return integers % MODULUS


def to_integers(elements: Tensor) -> Tensor:
    """Map elements to signed integers, as the inverse of `to_field`."""
    return torch.where(elements > MODULUS // 2, elements - MODULUS, elements)


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Fixed-point numbers: multiples of one step, for values in [-clip, clip].

    The step is `clip / 2^(bits - 1)`. Values outside the range are clamped to it.

    Args:
        clip: Largest magnitude, above 0, in the units of the update.
        bits: Bits of a number, from 2 to 48.
        rounding: "nearest" has an error of at most half a step. "stochastic" has an error of less
            than one step, and no bias.

    Raises:
        SpecificationError: `clip` or `bits` lies outside its range.
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
        """The integer that `clip` is encoded as, `2^(bits - 1)`."""
        return 1 << (self.bits - 1)

    @property
    def step(self) -> float:
        """The difference between two neighboring numbers, in the units of the update."""
        return self.clip / self.levels

    def check(self, examples: int) -> None:
        """Raise UpdateError if a sum of `examples` numbers, each of the largest magnitude, would overflow the field."""
        if examples * self.levels > MODULUS // 2:
            raise UpdateError(
                "secure aggregation",
                expected=f"at most {MODULUS // 2 // self.levels} numbers of {self.bits} bits in one sum",
                found=f"up to {examples} numbers",
                remedy="lower bits, or most_examples",
            )

    def encode(self, values: Tensor, *, generator: torch.Generator) -> Tensor:
        """Convert float values to int64 integers from `-levels` to `levels`."""
        scaled = values.detach().cpu().double().clamp(-self.clip, self.clip) / self.step
        if self.rounding == "nearest":
            return scaled.round().to(torch.int64)
        up = torch.rand(scaled.shape, generator=generator, dtype=torch.float64)
        return (scaled + up).floor().clamp(max=self.levels).to(torch.int64)

    def decode(self, integers: Tensor) -> Tensor:
        """Convert integers to float64 values."""
        return integers.double() * self.step
