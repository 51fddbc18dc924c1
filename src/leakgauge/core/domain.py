"""Domains: what one example is, in which units, and in which space an adversary searches for it.

Attacks search, and metrics score, in unit coordinates. The model is given the domain's own values.
A domain of a user's own needs `kind`, `shape`, `to_unit` and `from_unit`. What else it has, it says by a property:
`dtype`, `space` and `grid` here, and `modality` in `leakgauge.modalities`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.kinds import found
from leakgauge.core.lines import one_line
from leakgauge.core.ranges import Count, check_fields
from leakgauge.core.space import Continuous, SearchSpace

LINE = 200
"""Most characters of a table's repr."""
SHOWN = 3
"""Columns of a wide table that its repr shows."""


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


@dataclass(frozen=True)
class Column:
    """One column of a table: its name, its unit and the range that is public knowledge.

    Args:
        low, high: ends of the range, in the column's unit.
        decimals: how many decimals a report shows.
        integer: whether only whole numbers are valid, as of counts and of codes of categories.
    """

    name: str
    low: float
    high: float
    unit: str = ""
    decimals: int = 2
    integer: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        # Below, numbers that are not finite have a message of their own.
        numbers = [n for n in ("low", "high") if isinstance(getattr(self, n), float)]
        check_fields(self, DataError, without=numbers)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DataError(
                f"column {self.name!r}",
                expected="a finite low below a finite high",
                found=f"{self.low} and {self.high}",
                remedy="give the column's public range",
            )
        low, span = torch.tensor([self.low, self.high - self.low], dtype=torch.float32).tolist()
        if not (math.isfinite(low) and 0 < span < math.inf):
            raise DataError(
                f"column {self.name!r}",
                expected="a range whose ends and width float32 can hold, as inputs are float32",
                found=f"{self.low} to {self.high}",
                remedy="store the column in other units",
            )
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise DataError(
                f"column {self.name!r}",
                expected="whole numbers at both ends of an integer column",
                found=f"{self.low} to {self.high}",
                remedy="widen the range to whole numbers, or leave out integer",
            )


@dataclass(frozen=True)
class MixedColumns(Continuous):
    """The search space of rows with integer columns: unit coordinates, in which integer columns have steps."""

    coordinates: TableDomain

    @property
    def discrete(self) -> bool:
        return True

    @property
    def whole(self) -> list[int]:
        """Places of the integer columns."""
        return [i for i, column in enumerate(self.coordinates.columns) if column.integer]

    def round(self, relaxed: Tensor) -> Tensor:
        values = super().round(relaxed)
        values[..., self.whole] = values[..., self.whole].round()
        return values

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return rows (count, D). Each value is uniform in its range, each whole number as likely as any other."""
        unit = torch.rand((count, *self.shape), generator=generator)
        values = self.coordinates.from_unit(unit)
        for i in self.whole:
            low, high = self.coordinates.columns[i].low, self.coordinates.columns[i].high
            values[:, i] = (low + (unit[:, i] * (high - low + 1)).floor()).clamp(max=high)
        return values


@dataclass(frozen=True)
class TableDomain:
    """Rows of a table (D,), each column in its own unit and range."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        """Raise DataError unless the columns are a sequence of Column."""
        check_fields(self, DataError)

    def __repr__(self) -> str:
        """Return all columns, or how many there are and the first of them if they are longer than LINE."""
        text = f"TableDomain(columns={self.columns!r})"
        if len(text) <= LINE:
            return text
        start = f"TableDomain of {len(self.columns)} columns: "
        shown = [f"{c.name!r} from {c.low:g} to {c.high:g}" for c in self.columns[:SHOWN]]
        return one_line(f"{start}{', '.join(shown)}, ...", LINE)

    @property
    def kind(self) -> str:
        return "table"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @property
    def space(self) -> SearchSpace:
        mixed = any(column.integer for column in self.columns)
        return MixedColumns(self) if mixed else Continuous(self)

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.tensor([c.low for c in self.columns], dtype=torch.float64)
        high = torch.tensor([c.high for c in self.columns], dtype=torch.float64)
        return low.to(like), (high - low).to(like)

    def to_unit(self, inputs: Tensor) -> Tensor:
        low, span = self._range(inputs)
        return (inputs - low) / span

    def from_unit(self, unit: Tensor) -> Tensor:
        low, span = self._range(unit)
        return low + unit * span

    @classmethod
    def from_ranges(
        cls,
        names: Sequence[str],
        lows: Sequence[float],
        highs: Sequence[float],
        integers: Sequence[bool] | None = None,
    ) -> TableDomain:
        """Return a table without units, from one name, low and high for each column.

        Args:
            integers: whether each column holds whole numbers alone. None: no column does.

        Raises:
            DataError: these are no sequences, not equally long, or no text and numbers.
        """
        parts: dict[str, object] = {"names": names, "lows": lows, "highs": highs}
        if integers is not None:
            parts["integers"] = integers
        for what, given in parts.items():
            # A string is a sequence of names of one letter.
            text = what != "names" and isinstance(given, str)
            # A tensor of no axis has a length by its class, but none by itself.
            if text or not isinstance(given, Sized) or getattr(given, "ndim", 1) == 0:
                raise DataError(
                    f"table, {what}",
                    expected="one value for each column, as a list",
                    found=found(given),
                    remedy="correct the value",
                )
        whole = [False] * len(names) if integers is None else integers
        if not len(names) == len(lows) == len(highs) == len(whole):
            also = "" if integers is None else f", {len(whole)} integers"
            raise DataError(
                "table",
                expected="one low and one high for each column",
                found=f"{len(names)} names, {len(lows)} lows, {len(highs)} highs{also}",
                remedy="give each column's public range",
            )
        rows = zip(names, lows, highs, whole, strict=True)
        return cls(
            tuple(
                Column(name, _number(low), _number(high), integer=integer)
                for name, low, high, integer in rows
            )
        )


def _number(value: object) -> Any:
    """Return a number of Python or NumPy, or a tensor of one, as a float. Anything else is returned unchanged."""
    single = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    return float(value) if single or isinstance(value, Real) else value  # type: ignore[arg-type]
