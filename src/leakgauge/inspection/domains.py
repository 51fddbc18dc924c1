"""Domains for examples of a given shape: real numbers, or tokens of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from leakgauge.core import Domain, ImageDomain, SpecificationError, TextDomain
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
        return _text(sizes, vocabulary)
    if len(sizes) == 3:
        return ImageDomain(*sizes)
    return Numbers(tuple(sizes))


def _text(sizes: Sequence[int], vocabulary: int) -> TextDomain:
    """Return the domain of sequences of tokens. Raise SpecificationError unless the shape is one length."""
    if len(sizes) != 1:
        raise SpecificationError(
            "shape",
            expected="the number of tokens of one sequence, such as 32, since a vocabulary is given",
            found=repr(tuple(sizes)),
            remedy="give one size, or leave the vocabulary out",
        )
    return TextDomain(vocabulary, sizes[0])


def _product(sizes: Sequence[int]) -> int:
    """Return the product of sizes, in whole numbers of any length."""
    product = 1
    for size in sizes:
        product *= size
    return product
