"""The values in records: text that a page can show, counts, and measurements that may be missing."""

from __future__ import annotations

from numbers import Real
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST = 1e100
"""Largest magnitude of a measurement. Sums and squares of millions of measurements stay finite."""
MOST = 2**53
"""Largest count. Every reader of JSON can hold it exactly."""
LONGEST_TEXT = 2**20
"""Most characters of a text, equal to the length of the longest specification. The rest is cut."""
REPLACED = "\ufffd"
"""The character that replaces each character that no page should show."""
KEPT = frozenset("\n\t")
"""Control characters that are kept."""
OVERRIDES = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of writing. The text after them would read differently."""


class Part(BaseModel):
    """Base class of records and their parts. It is immutable, converts nothing and refuses unknown fields."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        # Every field is written, and the schema says so.
        json_schema_serialization_defaults_required=True,
    )


def printable(value: Any) -> Any:
    """Return text with U+FFFD for each character that no page should show.

    These characters are lone surrogates, characters that change the direction of writing, and
    control characters other than newline and tab. A text of more than LONGEST_TEXT characters loses
    its end. A value that is not text is returned unchanged.
    """
    if not isinstance(value, str):
        return value
    if len(value) > LONGEST_TEXT:
        value = f"{value[: LONGEST_TEXT - 4]} ..."
    if value.isprintable():
        return value
    return "".join(map(_replace, value))


def _replace(character: str) -> str:
    """Return a character, or U+FFFD if no page should show it."""
    code = ord(character)
    control = code < 0x20 or 0x7F <= code < 0xA0
    if (control and character not in KEPT) or 0xD800 <= code < 0xE000 or character in OVERRIDES:
        return REPLACED
    return character


def measured(value: Any) -> Any:
    """Return a number as a finite float, or None if it is NaN or beyond LARGEST. Return anything else unchanged."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    number: Any = value
    # NaN fails both comparisons. Whole numbers of any size are compared exactly.
    return float(number) if -LARGEST <= number <= LARGEST else None


Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], Field(strict=False)]
"""A JSON array. In Python, a list passes as well."""
Text = Annotated[str, BeforeValidator(printable)]
"""Text without characters that no page should show."""
Name = Annotated[str, Field(min_length=1), BeforeValidator(printable)]
"""Text that is not empty."""
Count = Annotated[int, Field(ge=0, le=MOST)]
"""A whole number from 0."""
Measurement = Annotated[
    Annotated[float, Field(ge=-LARGEST, le=LARGEST)] | None, BeforeValidator(measured)
]
"""A number that was measured. Null if it is missing or was not finite."""
