"""TOML from untrusted sources, parsed within limits. Every mistake raises an error of one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leakgauge.core import SpecificationError
from leakgauge.core.files import check_file, reason

MOST_BYTES = 2**20
"""Largest size of a specification in bytes: 1 MiB."""
DEEPEST = 32
"""Largest depth of nested tables and lists."""
INTEGERS = range(-(2**63), 2**63)
"""Integers of 64 bits, the range that TOML guarantees."""

_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"""(?<![\w"'-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{{DEEPEST}}}""")


def text_of(path: str | Path) -> str:
    """Return the text of a specification file, without a byte order mark.

    Raises:
        SpecificationError: The file cannot be read, is not UTF-8, or is larger than MOST_BYTES.
    """
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
    """Return the table that a text in TOML describes.

    Args:
        text: The text.
        where: Name of the text in error messages.

    Raises:
        SpecificationError: The text is not TOML or is longer than MOST_BYTES. Or its values are nested deeper than
            DEEPEST, or an integer has more than 64 bits.
    """
    if len(text) > MOST_BYTES:
        raise SpecificationError(
            where,
            expected=f"at most {MOST_BYTES:,} characters",
            found=f"{len(text):,}",
            remedy="shorten it",
        )
    # The parser's time grows with the square of the number of parts of a key.
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
    # Python refuses to convert a text of thousands of digits to an integer.
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
    """Raise SpecificationError if values are nested deeper than DEEPEST, or an integer has more than 64 bits."""
    for path, value, depth in _values(tree):
        if depth > DEEPEST:
            raise _too_deep(where)
        # Count bits, since Python refuses to print an integer of too many digits.
        bits = value.bit_length() if isinstance(value, int) else 0
        if isinstance(value, int) and value not in INTEGERS:
            raise SpecificationError(
                f"{where}.{path}",
                expected="an integer of at most 64 bits, from -2^63 to 2^63 - 1",
                found=str(value) if bits < 100 else f"one of {bits:,} bits",
                remedy="correct the value",
            )


def _values(tree: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yield each value with its path and its depth, from 1, one level after the other."""
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
    """Return the error for a table nested deeper than DEEPEST."""
    return SpecificationError(
        where,
        expected=f"tables and lists at most {DEEPEST} deep",
        found="more",
        remedy="remove levels: no option needs that depth",
    )
