"""Values of a record as the types that the page needs, or nothing: never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 1e100
"""Largest magnitude of a number: sums and squares of millions of these still are finite."""
REPLACED = "\ufffd"
KEPT = frozenset("\n\t")
OVERRIDES = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of writing: text behind them reads as something else."""


def number(value: object, low: float = -LARGEST, high: float = LARGEST) -> float | None:
    """Return a finite number from `low` to `high` as a float, or None if the value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN is in no range. A whole number of any size is compared exactly.
    return float(value) if low <= value <= high else None


def integer(value: object, low: float = -LARGEST, high: float = LARGEST) -> int | None:
    """Return a finite number from `low` to `high` as a whole number, rounded down, or None if the value is none."""
    found = number(value, low, high)
    return None if found is None else math.floor(found)


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping, or an empty one if the value is none."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """Return a list, or an empty one if the value is none."""
    return value if isinstance(value, list | tuple) else ()


def numbers(value: object) -> tuple[float | None, ...]:
    """Return one number or None for each item of a list."""
    return tuple(number(item) for item in sequence(value))


def text(value: object) -> str:
    """Return a value as text that a page can hold, or the empty text if it is None.

    Control characters, lone surrogates and characters that change the direction of writing are replaced.
    """
    if value is None:
        return ""
    try:
        told = value if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):
        # A whole number of more than some thousand digits, or lists within lists.
        return "a value too long to write"
    return told if told.isprintable() else "".join(map(_shown, told))


def texts(value: object) -> tuple[str, ...]:
    """Return one text for each item of a list."""
    return tuple(text(item) for item in sequence(value))


def _shown(character: str) -> str:
    """Return a character, or the replacement character if a page cannot or should not show it."""
    code = ord(character)
    control = code < 0x20 or 0x7F <= code < 0xA0
    if (control and character not in KEPT) or 0xD800 <= code < 0xE000 or character in OVERRIDES:
        return REPLACED
    return character
