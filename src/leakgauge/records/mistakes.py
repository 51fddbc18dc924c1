"""What is wrong with a part of a record, in words of our own."""

from __future__ import annotations

from pydantic import ValidationError

from leakgauge.core.kinds import describe_value


def mistake_of(error: ValidationError) -> str:
    """Return the first mistake in one line: the field, what was expected, and what was found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, (error.title, *first["loc"])))
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    given = "nothing" if first["type"] == "missing" else describe_value(first["input"])
    return f"{field}: expected {expected}; found {given}"
