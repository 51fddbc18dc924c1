"""TOML from others: parsed within stated limits, so that whatever is wrong with it is one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leakgauge.core import SpecificationError
from leakgauge.core.files import check_file, reason

MOST_BYTES = 2**20
"""Largest specification: 1 MiB."""
DEEPEST = 32
"""Most tables and lists within each other."""
INTEGERS = range(-(2**63), 2**63)
"""What TOML calls an integer: 64 bits."""

_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"""(?<![\w"'-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{{DEEPEST}}}""")


def text_of(path: str | Path) -> str:
    """Return the text of a specification file, without a byte order mark. Raises SpecificationError."""
    where = f"specification {str(path)!r}"
    expected = "a readable TOML file"
    check_file(path, where, most=MOST_BYTES, expected=expected, error=SpecificationError)
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationError(
            where,
            expected=f"{expected}, in UTF-8",
            found=reason(error),
            remedy="check the path, or leave it out for the default audit",
        ) from error


def tree_of(text: str, where: str) -> dict[str, Any]:
    """Return the table that TOML says.

    Raises SpecificationError for what is not TOML, is longer than MOST_BYTES, is nested deeper than
    DEEPEST, or holds an integer of more than 64 bits.
    """
    if len(text) > MOST_BYTES:
        raise SpecificationError(
            where,
            expected=f"at most {MOST_BYTES:,} characters",
            found=f"{len(text):,}",
            remedy="shorten it",
        )
    # The parser's time grows with the square of the parts of a key.
    if _LONG_KEY.search(text):
        raise _too_deep(where)
    try:
        tree = tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise _too_deep(where) from error
    except tomllib.TOMLDecodeError as error:
        raise SpecificationError(
            where, expected="TOML", found=str(error), remedy="correct that line"
        ) from error
    # Python converts no integer of thousands of digits.
    except ValueError as error:
        raise SpecificationError(
            where,
            expected="integers of at most 64 bits",
            found="one of thousands of digits",
            remedy="correct the value",
        ) from error
    check_tree(tree, where)
    return tree


def check_tree(tree: dict[str, Any], where: str) -> None:
    """Raise SpecificationError for values nested deeper than DEEPEST, and integers of more than 64 bits."""
    for path, value, depth in _values(tree):
        if depth > DEEPEST:
            raise _too_deep(where)
        # Not by its digits: there may be more of them than Python prints.
        bits = value.bit_length() if isinstance(value, int) else 0
        if isinstance(value, int) and value not in INTEGERS:
            raise SpecificationError(
                f"{where}.{path}",
                expected="an integer of at most 64 bits, from -2^63 to 2^63 - 1",
                found=str(value) if bits < 100 else f"one of {bits:,} bits",
                remedy="correct the value",
            )


def _values(tree: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Each value with its path and how many tables and lists it lies in, one level after the other."""
    level: list[tuple[str, Any]] = list(tree.items())
    depth = 1
    while level and depth <= DEEPEST + 1:
        below: list[tuple[str, Any]] = []
        for path, value in level:
            yield path, value, depth
            if isinstance(value, dict):
                below += [(f"{path}.{key}", part) for key, part in value.items()]
            elif isinstance(value, list):
                below += [(f"{path}.{i}", part) for i, part in enumerate(value)]
        level, depth = below, depth + 1


def _too_deep(where: str) -> SpecificationError:
    return SpecificationError(
        where,
        expected=f"tables and lists at most {DEEPEST} deep",
        found="more",
        remedy="flatten it: no option is nested so deep",
    )
