"""Ranges of options, as types. Specifications and Python objects are checked against them before any compute."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from leakgauge.core.errors import SpecificationError

MOST = 10**9
"""Largest number of steps, examples or parts: no more can be counted to in a day."""

Count = Annotated[int, Ge(1), Le(MOST)]
Whole = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
Share = Annotated[float, Ge(0), Lt(1)]

WORDS = {
    Ge: lambda limit: f"of at least {limit.ge}",
    Gt: lambda limit: f"greater than {limit.gt}",
    Le: lambda limit: f"of at most {limit.le}",
    Lt: lambda limit: f"less than {limit.lt}",
}


def check_ranges(part: object) -> None:
    """Raise SpecificationError if a field of a dataclass, or of one within it, lies outside its range.

    A field of another type than its annotation says is refused if the annotation has a range.
    """
    if not is_dataclass(part) or isinstance(part, type):
        return
    hints = _hints(type(part))
    for field in fields(part):
        value, hint = getattr(part, field.name), hints.get(field.name)
        expected = _refused(value, hint)
        if expected is not None:
            raise SpecificationError(
                f"{type(part).__name__}.{field.name}",
                expected=expected,
                found=repr(value),
                remedy="correct the value",
            )
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            check_ranges(inner)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _refused(value: Any, hint: Any) -> str | None:
    """Return what a hint with a range expects instead of the value, or None if it admits it."""
    ranges = list(_ranges(hint))
    admitted = any(_admits(value, kind, limits) for kind, limits in ranges)
    if not ranges or admitted or _unranged(value, hint):
        return None
    return " or ".join(dict.fromkeys(_told(kind, limits) for kind, limits in ranges))


def _ranges(hint: Any) -> Iterator[tuple[type, tuple[Any, ...]]]:
    """Yield the type and the limits of each number with a range that a hint allows, but for those within a tuple."""
    if typing.get_origin(hint) is Annotated:
        kind, *limits = typing.get_args(hint)
        ours = tuple(limit for limit in limits if type(limit) in WORDS)
        if kind in (int, float) and ours:
            yield kind, ours
    elif typing.get_origin(hint) not in (list, tuple, dict):
        for inner in typing.get_args(hint):
            yield from _ranges(inner)


def _unranged(value: Any, hint: Any) -> bool:
    """Return whether a hint allows the value beside its numbers: None, or an object of another kind."""
    plain = [a for a in typing.get_args(hint) if typing.get_origin(a) is not Annotated]
    if value is None:
        return type(None) in plain
    others = [a for a in plain if a is not type(None)]
    return bool(others) and typing.get_origin(hint) is not Annotated and not isinstance(value, Real)


def _admits(value: Any, kind: type, limits: tuple[Any, ...]) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return False
    number: Any = value
    return not math.isnan(number) and all(_within(number, limit) for limit in limits)


def _within(number: Any, limit: Any) -> bool:
    match limit:
        case Ge(bound):
            return bool(number >= bound)
        case Gt(bound):
            return bool(number > bound)
        case Le(bound):
            return bool(number <= bound)
        case Lt(bound):
            return bool(number < bound)
    return True


def _told(kind: type, limits: tuple[Any, ...]) -> str:
    name = "a whole number" if kind is int else "a finite number"
    bounds = [limit for limit in limits if limit != Lt(math.inf)]
    return f"{name} {' and '.join(WORDS[type(limit)](limit) for limit in bounds)}"
