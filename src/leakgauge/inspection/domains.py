"""Domains for examples of a given shape: real numbers, or tokens of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Domain, ImageDomain, SpecificationError
from leakgauge.core.ranges import Count, check_argument

MOST_NUMBERS = 2**22
"""Most numbers of one example. The layers' signals are measured on three examples, in float64."""


@dataclass(frozen=True)
class Numbers:
    """Examples of real numbers in [0, 1] with any shape, such as signals (C, L) and volumes (C, D, H, W).

    Args:
        shape: Shape of one example.
    """

    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The word "numbers"."""
        return "numbers"

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return the values unchanged."""
        return inputs

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the values unchanged."""
        return unit


@dataclass(frozen=True)
class Tokens:
    """Sequences of tokens, as whole numbers below the size of a vocabulary.

    Args:
        shape: Shape of one example, its length (T,).
        vocabulary: Number of tokens V.
    """

    shape: tuple[int, ...]
    vocabulary: int

    @property
    def kind(self) -> str:
        """The word "tokens"."""
        return "tokens"

    @property
    def dtype(self) -> torch.dtype:
        """The type of a token."""
        return torch.int64

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return numbers in [0, 1) for tokens."""
        return inputs / self.vocabulary

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the tokens of numbers in [0, 1]."""
        return (unit * self.vocabulary).long().clamp_max(self.vocabulary - 1)


def domain_of(shape: Sequence[int] | Domain, vocabulary: int | None) -> Domain:
    """Return the domain of examples of a shape. Three sizes are those of an image.

    Raises:
        SpecificationError: A size is no whole number from 1, or the example has too many numbers.
    """
    if isinstance(shape, Domain):
        return shape
    check_argument("vocabulary", Count | None, vocabulary)
    check_argument("shape", Sequence[int] | Domain, shape)
    sizes = list(shape)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not sizes or not whole or _product(sizes) > MOST_NUMBERS:
        raise SpecificationError(
            "shape",
            expected=f"the shape of one example: whole numbers of at least 1, whose product is at most {MOST_NUMBERS}",
            found=repr(tuple(sizes)),
            remedy="give, for example, 3,32,32 for color images of 32 x 32 pixels",
        )
    if vocabulary is not None:
        return Tokens(tuple(sizes), vocabulary)
    if len(sizes) == 3:
        return ImageDomain(*sizes)
    return Numbers(tuple(sizes))


def _product(sizes: Sequence[int]) -> int:
    """Return the product of sizes, in whole numbers of any length."""
    product = 1
    for size in sizes:
        product *= size
    return product
