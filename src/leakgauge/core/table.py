"""Tables: columns with a unit and a public range, some of whole numbers, and the space that they span."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.kinds import describe_value
from leakgauge.core.lines import one_line
from leakgauge.core.ranges import check_fields
from leakgauge.core.space import Continuous, SearchSpace

LINE = 200
"""Most characters of a table's repr."""
SHOWN = 3
"""Number of columns of a wide table that its repr shows."""


@dataclass(frozen=True)
class Column:
    """One column of a table: its name, its unit, and its range, which is public knowledge.

    A table of private data needs one Column for each feature. The adversary searches within the
    range.

    Args:
        name: Name of the column.
        low: Lower end of the range, in the column's unit.
        high: Upper end of the range, in the column's unit, above `low`.
        unit: Unit of the values, for reports. The default is empty.
        decimals: Number of decimals that a report shows. The default is 2.
        integer: Whether only whole numbers are valid, as for counts and codes of categories. Both
            ends must then be whole numbers. The default is False.

    Raises:
        DataError: A field is of another kind, the range is empty or not finite, or float32 cannot
            hold it.

    Example:
        >>> import leakgauge as lg
        >>> lg.Column("age", low=18, high=90, unit="years", decimals=0, integer=True)
        Column(name='age', low=18, high=90, unit='years', decimals=0, integer=True)
    """

    name: str
    low: float
    high: float
    unit: str = ""
    decimals: int = 2
    integer: bool = False

    def __post_init__(self) -> None:
        """Raise DataError unless the range is finite, not empty, and within float32."""
        # Numbers that are not finite get their own message below.
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
                expected="a range whose ends and width float32 can hold, since inputs are float32",
                found=f"{self.low} to {self.high}",
                remedy="store the column in other units",
            )
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise DataError(
                f"column {self.name!r}",
                expected="whole numbers at both ends of an integer column",
                found=f"{self.low} to {self.high}",
                remedy="widen the range to whole numbers, or set integer to False",
            )

    def __repr__(self) -> str:
        """Return all fields, with `integer` only if it is true."""
        names = [f.name for f in fields(self) if f.name != "integer" or self.integer]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True)
class MixedColumns(Continuous):
    """The search space of rows with integer columns.

    The variables are unit coordinates. Only the whole numbers of an integer column are valid.

    Args:
        coordinates: The table.
    """

    coordinates: TableDomain

    @property
    def discrete(self) -> bool:
        return True

    @property
    def integer_columns(self) -> list[int]:
        """Indices of the integer columns."""
        return [i for i, column in enumerate(self.coordinates.columns) if column.integer]

    def round(self, relaxed: Tensor) -> Tensor:
        values = super().round(relaxed)
        values[..., self.integer_columns] = values[..., self.integer_columns].round()
        return values

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return rows (count, D). Each value is uniform in its range, and all whole numbers are equally likely."""
        unit = torch.rand((count, *self.shape), generator=generator)
        values = self.coordinates.from_unit(unit)
        for i in self.integer_columns:
            low, high = self.coordinates.columns[i].low, self.coordinates.columns[i].high
            values[:, i] = (low + (unit[:, i] * (high - low + 1)).floor()).clamp(max=high)
        return values


@dataclass(frozen=True)
class TableDomain:
    """Rows (D,) of a table, each of the D columns in its own unit and range.

    Use it for private data that are rows of numbers. `from_ranges` builds it from lists.

    Args:
        columns: The columns, in the order of the values of a row.

    Raises:
        DataError: `columns` is not a sequence of Column.

    Example:
        >>> import leakgauge as lg
        >>> age = lg.Column("age", low=18, high=90, unit="years", integer=True)
        >>> dose = lg.Column("dose", low=0.0, high=2.5, unit="mg")
        >>> lg.TableDomain((age, dose)).shape
        (2,)
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        """Raise DataError unless the columns are a sequence of Column."""
        check_fields(self, DataError)

    def __repr__(self) -> str:
        """Return all columns. If they are longer than LINE, return their number and the first few."""
        text = f"TableDomain(columns={self.columns!r})"
        if len(text) <= LINE:
            return text
        start = f"TableDomain of {len(self.columns)} columns: "
        shown = [f"{c.name!r} from {c.low:g} to {c.high:g}" for c in self.columns[:SHOWN]]
        return one_line(f"{start}{', '.join(shown)}, ...", LINE)

    @property
    def kind(self) -> str:
        """The word "table"."""
        return "table"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (D,) of one row."""
        return (len(self.columns),)

    @property
    def space(self) -> SearchSpace:
        """Search space of the rows. In integer columns only whole numbers are valid."""
        mixed = any(column.integer for column in self.columns)
        return MixedColumns(self) if mixed else Continuous(self)

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower ends and the widths of all columns (D,), with the type and device of `like`."""
        low = torch.tensor([c.low for c in self.columns], dtype=torch.float64)
        high = torch.tensor([c.high for c in self.columns], dtype=torch.float64)
        return low.to(like), (high - low).to(like)

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return unit coordinates (..., D): 0 is the lower end of a column and 1 the upper end."""
        low, span = self._range(inputs)
        return (inputs - low) / span

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return values (..., D) in the units of the columns."""
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
            names: Names of the D columns.
            lows: Lower ends of the ranges.
            highs: Upper ends of the ranges.
            integers: Whether each column holds only whole numbers. None, the default: no column
                does.

        Raises:
            DataError: An argument is not a sequence, the lengths differ, or an item is of another
                kind.

        Example:
            >>> import leakgauge as lg
            >>> lg.TableDomain.from_ranges(["age", "dose"], [18, 0], [90, 2.5]).shape
            (2,)
        """
        parts: dict[str, object] = {"names": names, "lows": lows, "highs": highs}
        if integers is not None:
            parts["integers"] = integers
        for what, given in parts.items():
            # A string is a valid sequence of names of one letter each, but no sequence of numbers.
            text = what != "names" and isinstance(given, str)
            # A tensor without axes has a `__len__` method, but calling it fails.
            if text or not isinstance(given, Sized) or getattr(given, "ndim", 1) == 0:
                raise DataError(
                    f"table, {what}",
                    expected="one value for each column, as a list",
                    found=describe_value(given),
                    remedy="pass a list",
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
    """Return a real number, or a tensor that holds one, as a float. Return anything else unchanged."""
    single = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    return float(value) if single or isinstance(value, Real) else value  # type: ignore[arg-type]
