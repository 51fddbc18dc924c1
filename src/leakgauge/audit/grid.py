"""The size of an audit, counted before any list of cells is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leakgauge.core import SpecificationError

if TYPE_CHECKING:
    from leakgauge.audit.case import Case

MOST_CELLS = 10_000
"""Largest number of cells and trainings by default."""
PLAIN = 10**15
"""Largest number that is printed with all its digits."""


def check_size(where: str, axes: Mapping[str, int], most: int | None) -> None:
    """Raise SpecificationError if a grid has more than `most` cells.

    Args:
        where: Place of the grid, for the message.
        axes: Number of values of each axis, by the axis' name in the plural.
        most: Largest number of cells. None allows any number.
    """
    by = " x ".join(f"{number(count)} {name}" for name, count in axes.items() if count != 1)
    check_count(where, math.prod(axes.values()), by, most)


def check_total(cases: Sequence[Case], most: int | None) -> None:
    """Raise SpecificationError if cases have more than `most` cells and trainings together."""
    if not cases:
        raise SpecificationError(
            "the audit", expected="at least one case", found="none", remedy="give one case or more"
        )
    audits, trainings = sum(case.cells for case in cases), sum(case.trainings for case in cases)
    by = f"{number(audits)} audits and {number(trainings)} trainings in {plural(len(cases))}"
    check_count("the audit", audits + trainings, by, most)


def check_count(where: str, total: int, by: str, most: int | None) -> None:
    """Raise SpecificationError if `total` is larger than `most`. `by` explains the total in the message."""
    if most is None or total <= most:
        return
    raise SpecificationError(
        where,
        expected=f"at most {number(most)} audits and trainings",
        found=f"{number(total)} ({by})",
        remedy="shorten a sweep, or allow more with --max-cells (in Python: max_cells)",
    )


def plural(cases: int) -> str:
    """Return a number of cases in words."""
    return "1 case" if cases == 1 else f"{cases} cases"


def number(count: int) -> str:
    """Return a number with all its digits, or its first digit and its power of ten if they are many."""
    if count <= PLAIN:
        return f"{count:,}"
    # The logarithm may round up to the next power of ten. Python limits the digits of printed integers.
    power = math.floor(math.log10(count) + 1e-9)
    return f"about {max(1, count // 10**power)}e{power}"
