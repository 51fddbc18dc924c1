"""Domains: what one example is, in which units, and in which space an adversary searches for it.

Attacks search, and metrics score, in unit coordinates. The model receives the domain's own values.
A domain of your own needs `kind`, `shape`, `to_unit` and `from_unit`. Optional properties are
`dtype`, `space` and `grid` here, and `modality` in `leakgauge.modalities`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.ranges import Count, check_fields
from leakgauge.core.space import Continuous, SearchSpace


@runtime_checkable
class Domain(Protocol):
    """The contract of domains. A domain says what one example of the private data is.

    Examples are float32 unless the domain has a `dtype`. Unit coordinates have the shape of
    examples unless the domain has a `space`. Read these properties with `dtype_of`, `space_of` and
    `image_grid`, which know the defaults. Use `ImageDomain` for images and `TableDomain` for
    tables.

    Example:
        >>> import leakgauge as lg
        >>> isinstance(lg.ImageDomain(3, 32, 32), lg.Domain)
        True
    """

    @property
    def kind(self) -> str:
        """One word for messages and for the choice of a modality, such as "image" or "table"."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example. Sequences of different lengths are padded to one shape: see `core.space`."""
        ...

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return the unit coordinates of values `(..., *shape)`. Values in range give numbers in [0, 1]."""
        ...

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the values that the model receives for unit coordinates.

        It is the inverse of `to_unit`. The map is differentiable unless the domain's space says
        otherwise.
        """
        ...


@runtime_checkable
class Gridded(Protocol):
    """A domain that says whether its examples are images. The property is optional in a domain of your own."""

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """Shape (C, H, W) of one example in unit coordinates, or None if it is not an image."""
        ...


def image_grid(domain: Domain) -> tuple[int, int, int] | None:
    """Return the shape (C, H, W) of an example of `domain`, or None if it is not an image.

    Priors on neighboring pixels, generators of images and all other code for images call this
    function to test whether examples are images.
    """
    return domain.grid if isinstance(domain, Gridded) else None


@runtime_checkable
class Typed(Protocol):
    """A domain that states the type of its values."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values of an example, such as torch.int64 for tokens."""
        ...


def dtype_of(domain: Domain) -> torch.dtype:
    """Return the `dtype` of a domain's examples, or float32 if the domain states none."""
    return domain.dtype if isinstance(domain, Typed) else torch.float32


@runtime_checkable
class Spaced(Protocol):
    """A domain with a search space of its own."""

    @property
    def space(self) -> SearchSpace:
        """Search space of the examples."""
        ...


def space_of(domain: Domain) -> SearchSpace:
    """Return the search space of `domain`.

    The default, for a domain without the property `space`, is the space of unit coordinates. There
    every value in [0, 1] is valid.
    """
    return domain.space if isinstance(domain, Spaced) else Continuous(domain)


def unit_shape(domain: Domain) -> tuple[int, ...]:
    """Return the shape of one example in unit coordinates."""
    return space_of(domain).shape


def nearest_examples(domain: Domain, inputs: Tensor) -> Tensor:
    """Return the valid examples `(N, *shape)` nearest to the given model inputs.

    Inputs of a continuous domain are returned unchanged, even if they are out of range.
    """
    space = space_of(domain)
    return space.round(space.relax(inputs)) if space.discrete else inputs


@dataclass(frozen=True)
class AsGiven:
    """A domain whose unit coordinates are the model's inputs themselves.

    Use it to simulate valid examples of `base` exactly, without a conversion to unit coordinates.

    Args:
        base: The domain that the examples belong to.
    """

    base: Domain

    @property
    def kind(self) -> str:
        return self.base.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def to_unit(self, inputs: Tensor) -> Tensor:
        return inputs

    def from_unit(self, unit: Tensor) -> Tensor:
        return unit


@dataclass(frozen=True)
class ImageDomain:
    """Images (C, H, W) with values in [0, 1].

    Use it for private data that are images, with any number of channels.

    Args:
        channels: Number of channels C, at least 1: 1 for gray, 3 for RGB.
        height: Height H in pixels, at least 1.
        width: Width W in pixels, at least 1.

    Raises:
        DataError: `channels`, `height` or `width` is not a whole number of at least 1.

    Example:
        >>> import leakgauge as lg
        >>> lg.ImageDomain(channels=3, height=32, width=32).shape
        (3, 32, 32)
    """

    channels: Count
    height: Count
    width: Count

    def __post_init__(self) -> None:
        """Raise DataError unless channels, height and width are whole numbers of at least 1."""
        check_fields(self, DataError)

    @property
    def kind(self) -> str:
        """The word "image"."""
        return "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one image."""
        return self.grid

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image in unit coordinates."""
        return (self.channels, self.height, self.width)

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return the values unchanged: they are in [0, 1] already."""
        return inputs

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the unit coordinates unchanged."""
        return unit
