"""Figures of rows: every count, median, mean, spread and time on the pages comes from here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from tables.documents import Row

Figure = Callable[[Sequence[Row]], float | None]
"""A number of some rows, or None if they hold no values."""
EXACT = 60.0
"""PSNR in dB from which an image counts as exact: an error below an eighth of a gray level."""


def values(rows: Iterable[Row], field: str) -> list[float]:
    """Return the values of a field, one for each example, of all rows that have them.

    Args:
        rows: The rows.
        field: A name, or a path like `naive.psnr`.
    """
    found: list[float] = []
    for row in rows:
        at: object = row
        for part in field.split("."):
            at = at.get(part) if isinstance(at, dict) else None
        for value in at if isinstance(at, list) else [at]:
            if value is None:
                continue
            # A string that reads as a number would count as one, and any other one would be lost from n.
            if not isinstance(value, (int, float)):
                raise TypeError(f"{field!r} must hold numbers or null, but holds {value!r}")
            found.append(float(value))
    return found


def of(field: str, statistic: Callable[[list[float]], float]) -> Figure:
    """Return the figure that applies a statistic to the values of a field."""

    def figure(rows: Sequence[Row]) -> float | None:
        found = values(rows, field)
        return statistic(found) if found else None

    return figure


def count(field: str) -> Figure:
    """Return the figure that counts the values of a field."""
    return lambda rows: len(values(rows, field))


def median(field: str) -> Figure:
    """Return the median of a field."""
    return of(field, statistics.median)


def mean(field: str) -> Figure:
    """Return the mean of a field."""
    return of(field, statistics.fmean)


def least(field: str) -> Figure:
    """Return the least value of a field."""
    return of(field, min)


def most(field: str) -> Figure:
    """Return the largest value of a field."""
    return of(field, max)


def quartile(field: str, which: int) -> Figure:
    """Return the first or third quartile of a field, or None if it has one value."""

    def figure(rows: Sequence[Row]) -> float | None:
        found = values(rows, field)
        if len(found) < 2:
            return None
        return statistics.quantiles(found, n=4, method="inclusive")[which - 1]

    return figure


def deviation(field: str) -> Figure:
    """Return the standard deviation of a field, or None if it has one value."""

    def figure(rows: Sequence[Row]) -> float | None:
        found = values(rows, field)
        return statistics.stdev(found) if len(found) > 1 else None

    return figure


def above(field: str, least_value: float) -> Figure:
    """Return how many values of a field are at least this large."""
    return of(field, lambda found: sum(value >= least_value for value in found))


def below(field: str, most_value: float) -> Figure:
    """Return how many values of a field are at most this large."""
    return of(field, lambda found: sum(value <= most_value for value in found))


def total(field: str) -> Figure:
    """Return the sum of a field, 0 if rows have it without values. True counts as 1."""

    def figure(rows: Sequence[Row]) -> float | None:
        return sum(values(rows, field)) if any(field in row for row in rows) else None

    return figure


def equal(field: str, wanted: object) -> Figure:
    """Return in how many rows a field has this value."""
    return lambda rows: sum(row.get(field) == wanted for row in rows)


def where(field: str, wanted: object, figure: Figure) -> Figure:
    """Return a figure of the rows alone in which a field has this value, or None if there are none."""

    def of_some(rows: Sequence[Row]) -> float | None:
        some = [row for row in rows if row.get(field) == wanted]
        return figure(some) if some else None

    return of_some


def length(rows: Sequence[Row]) -> float:
    """Return the number of rows."""
    return len(rows)


def seconds(rows: Sequence[Row]) -> float | None:
    """Return the median time of one row: the process's own seconds if recorded, else by the clock."""
    own = values(rows, "cpu_seconds") or values(rows, "seconds")
    return statistics.median(own) if own else None


def spent(rows: Iterable[Row]) -> float:
    """Return the seconds of all rows together."""
    return sum(seconds([row]) or 0.0 for row in rows)
