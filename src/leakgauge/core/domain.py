"""Domains: what one example is, in which units, and in which space an adversary searches for it.

Attacks search, and metrics score, in unit coordinates. The model is given the domain's own values.
A domain of a user's own needs `kind`, `shape`, `to_unit` and `from_unit`. What else it has, it says by a property:
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
    """What one example of the private data looks like. Says nothing of pixels.

    Examples are float32 unless the domain has a `dtype`, and unit coordinates have the shape of examples unless it
    has a `space`. Ask `dtype_of`, `space_of` and `image_grid`.
    """

    @property
    def kind(self) -> str:
        """One word for messages, and for choosing a modality: "image", "table", ..."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example. Sequences of different lengths are padded to one shape: see `core.space`."""
        ...

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return unit coordinates of domain values (..., *shape), in [0, 1] where the values are in range."""
        ...

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return what the model is given for unit coordinates: the inverse of `to_unit`.

        Differentiable unless the domain's space says otherwise.
        """
        ...


@runtime_checkable
class Gridded(Protocol):
    """A domain that says whether its examples are images. A user's own domain may."""

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """Shape (C, H, W) of one example in unit coordinates, or None if it is no image."""
        ...


def image_grid(domain: Domain) -> tuple[int, int, int] | None:
    """Return the shape (C, H, W) of one example of `domain`, or None if its examples are no images.

    Everything that reads examples as images asks here: priors on neighboring pixels, generators of images.
    """
    return domain.grid if isinstance(domain, Gridded) else None


@runtime_checkable
class Typed(Protocol):
    """A domain that says of which type its examples are."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values of examples, such as torch.int64 for tokens."""
        ...


def dtype_of(domain: Domain) -> torch.dtype:
    """Return the type of the values of examples of `domain`: its own, or float32."""
    return domain.dtype if isinstance(domain, Typed) else torch.float32


@runtime_checkable
class Spaced(Protocol):
    """A domain with a search space of its own."""

    @property
    def space(self) -> SearchSpace:
        """The search space of its examples."""
        ...


def space_of(domain: Domain) -> SearchSpace:
    """Return the search space of `domain`: its own, or unit coordinates in which every value is valid."""
    return domain.space if isinstance(domain, Spaced) else Continuous(domain)


def unit_shape(domain: Domain) -> tuple[int, ...]:
    """Return the shape of one example in unit coordinates."""
    return space_of(domain).shape


def nearest_examples(domain: Domain, inputs: Tensor) -> Tensor:
    """Return the valid examples (N, *shape) nearest to what the model was given.

    Inputs of a continuous domain are returned as they are, out of range or not.
    """
    space = space_of(domain)
    return space.round(space.relax(inputs)) if space.discrete else inputs


@dataclass(frozen=True)
class AsGiven:
    """A domain whose examples are given to the model as they are, to simulate valid examples of `base` exactly."""

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
    """Images (C, H, W) with values in [0, 1], any number of channels."""

    channels: Count
    height: Count
    width: Count

    def __post_init__(self) -> None:
        """Raise DataError unless each side is a whole number from 1."""
        check_fields(self, DataError)

    @property
    def kind(self) -> str:
        return "image"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid

    @property
    def grid(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def to_unit(self, inputs: Tensor) -> Tensor:
        return inputs

    def from_unit(self, unit: Tensor) -> Tensor:
        return unit
