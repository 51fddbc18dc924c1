"""Tables of one number a cell, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tables.documents import Row, commits
from tables.figures import Figure

Cell = float | str | None
NONE = "–"
"""The cell that stands for no value."""
HUGE = 1e15
"""From here a number is written with an exponent, whatever its column's form."""


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Args:
        head: The heading, with its unit.
        figure: The number of a group of rows.
        about: What the number is, for the list under the tables. "" adds no line there.
        form: How the number is written: a format, or a function.
    """

    head: str
    figure: Figure
    about: str = ""
    form: str | Callable[[float], str] = ".1f"

    def text(self, value: float | None) -> str:
        """Return a number in the form of a cell."""
        if value is None or math.isnan(value):
            return NONE
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        if abs(value) >= HUGE:
            return f"{value:.1e}"
        return self.form(value) if callable(self.form) else f"{value:{self.form}}"


@dataclass(frozen=True)
class Line:
    """One line: the values of its keys, its numbers, and the commits that measured it."""

    keys: tuple[str, ...]
    numbers: tuple[float | None, ...]
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        title: The heading above it.
        heads: The headings of the columns of words, which come first.
        columns: The columns of numbers.
        lines: The lines.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def column(self, head: str) -> list[float | None]:
        """Return the numbers under a heading."""
        at = [column.head for column in self.columns].index(head)
        return [line.numbers[at] for line in self.lines]

    def has(self, head: str) -> bool:
        """Return whether there is a column of numbers of this heading."""
        return any(column.head == head for column in self.columns)

    def markdown(self, *, with_commits: bool) -> str:
        """Return the table in Markdown. Words stand to the left, numbers to the right.

        The column of commits is left out if no line names one.
        """
        with_commits = with_commits and any(line.commits for line in self.lines)
        commit = ["commit"] if with_commits else []
        lines = [
            [*self.heads, *(column.head for column in self.columns), *commit],
            [
                *(":--" for _ in self.heads),
                *("--:" for _ in self.columns),
                *(":--" for _ in commit),
            ],
        ]
        for line in self.lines:
            pairs = zip(self.columns, line.numbers, strict=True)
            last = [" ".join(line.commits) or NONE] if with_commits else []
            lines.append([*line.keys, *(column.text(value) for column, value in pairs), *last])
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tabulate(
    title: str,
    rows: Sequence[Row],
    by: Mapping[str, object],
    columns: Sequence[Column],
    order: Callable[[Row], object] | None = None,
) -> Table:
    """Return a table with one line for the rows that agree in all keys.

    Args:
        title: The heading above the table.
        rows: The rows, in the order of the lines.
        by: Headings of the keys, and the field or function that gives each.
        columns: The columns of numbers. Those without any number are left out.
        order: What the lines are sorted by. None keeps the order of the rows.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    listed = sorted(rows, key=order) if order is not None else rows  # type: ignore[arg-type]
    for row in listed:
        groups.setdefault(tuple(word(row, key) for key in by.values()), []).append(row)
    lines = [
        Line(keys, tuple(column.figure(group) for column in columns), tuple(commits(group)))
        for keys, group in groups.items()
    ]
    whole = Table(title, tuple(by), tuple(columns), tuple(lines))
    return without_empty(whole)


def without_empty(table: Table) -> Table:
    """Return a table without its columns that hold no number."""
    kept = [
        at
        for at in range(len(table.columns))
        if any(line.numbers[at] is not None for line in table.lines)
    ]
    lines = [replace(line, numbers=tuple(line.numbers[at] for at in kept)) for line in table.lines]
    columns = tuple(table.columns[at] for at in kept)
    return replace(table, columns=columns, lines=tuple(lines))


def split(
    rows: Sequence[Row],
    on: object,
    title: Callable[[str], str],
    by: Mapping[str, object],
    columns: Sequence[Column],
    order: Callable[[Row], object] | None = None,
) -> list[Table]:
    """Return one table for each value of a key, in the order of `order`."""
    groups: dict[str, list[Row]] = {}
    listed = sorted(rows, key=order) if order is not None else rows  # type: ignore[arg-type]
    for row in listed:
        groups.setdefault(word(row, on), []).append(row)
    return [tabulate(title(name), group, by, columns) for name, group in groups.items()]


def word(row: Row, key: object) -> str:
    """Return the value of a key, in the form of a cell."""
    found = key(row) if callable(key) else row[str(key)]
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float):
        return f"{found:g}"
    return plain(str(found))


def plain(text: str) -> str:
    """Return words that stay in their cell and show no HTML, whatever they are."""
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    # One backtick alone would turn the cells behind it into code.
    return text if text.count("`") % 2 == 0 else text.replace("`", "\\`")


def fraction(value: float) -> str:
    """Return a relative number: with an exponent if it is small, else with two digits that count."""
    return f"{value:.0e}" if 0 < value < 1e-2 else f"{value:.2g}" if value < 100 else f"{value:.0f}"


def compact(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
