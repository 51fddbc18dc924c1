"""Tables: columns with a unit and a public range, some of them of whole numbers, and the space that they span."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.kinds import found
from leakgauge.core.lines import one_line
from leakgauge.core.ranges import check_fields
from leakgauge.core.space import Continuous, SearchSpace

LINE = 200
"""Most characters of a table's repr."""
SHOWN = 3
"""Columns of a wide table that its repr shows."""


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
    integer: bool = False

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

    def __repr__(self) -> str:
        """Return all fields, with `integer` only if it is true."""
        names = [f.name for f in fields(self) if f.name != "integer" or self.integer]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"


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
