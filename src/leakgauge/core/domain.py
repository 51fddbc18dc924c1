"""Domains: what one example is, in which units, and how it maps to and from [0, 1].

Attacks search, and metrics score, in unit coordinates; the model sees the domain's own values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.kinds import found
from leakgauge.core.lines import one_line
from leakgauge.core.ranges import Count, check_fields

LINE = 200
"""Most characters of a table's repr."""
SHOWN = 3
"""Columns of a wide table that its repr shows."""


@runtime_checkable
class Domain(Protocol):
    """What one example of the private data looks like. Says nothing of pixels."""

    @property
    def kind(self) -> str:
        """One word for reports and for choosing metrics: "image", "table", ..."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Domain values (..., *shape) to unit coordinates, in [0, 1] where the values are in range."""
        ...

    def from_unit(self, unit: Tensor) -> Tensor:
        """Unit coordinates (..., *shape) to domain values; differentiable, the inverse of `to_unit`."""
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
    """One column of a table: its name, its unit and the range that is public knowledge."""

    name: str
    low: float
    high: float
    unit: str = ""
    decimals: int = 2

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
        cls, names: Sequence[str], lows: Sequence[float], highs: Sequence[float]
    ) -> TableDomain:
        """Return a table without units, from one name, low and high for each column.

        Raises:
            DataError: these are no sequences, not equally long, or no text and numbers.
        """
        for what, given in (("names", names), ("lows", lows), ("highs", highs)):
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
        if not len(names) == len(lows) == len(highs):
            raise DataError(
                "table",
                expected="one low and one high for each column",
                found=f"{len(names)} names, {len(lows)} lows, {len(highs)} highs",
                remedy="give each column's public range",
            )
        rows = zip(names, lows, highs, strict=True)
        return cls(tuple(Column(name, _number(low), _number(high)) for name, low, high in rows))


def _number(value: object) -> Any:
    """Return a number of Python or NumPy, or a tensor of one, as a float. Anything else is returned unchanged."""
    single = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    return float(value) if single or isinstance(value, Real) else value  # type: ignore[arg-type]
