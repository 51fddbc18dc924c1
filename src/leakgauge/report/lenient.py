"""Values of a record as the types that the page needs, or nothing: never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def number(value: object) -> float | None:
    """A float, infinities included; None for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's integers have no limit
        return None
    return None if math.isnan(found) else found


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list | tuple) else ()


def numbers(value: object) -> tuple[float | None, ...]:
    """One number or None for each item of a list."""
    return tuple(number(item) for item in sequence(value))


def text(value: object) -> str:
    """A value as text; nothing as the empty text."""
    return "" if value is None else str(value)


def texts(value: object) -> tuple[str, ...]:
    """One text for each item of a list."""
    return tuple(str(item) for item in sequence(value))


def integer(value: object) -> int | None:
    """A whole number; None for anything that is not finite."""
    found = number(value)
    return int(found) if found is not None and math.isfinite(found) else None
