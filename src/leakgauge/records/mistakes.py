"""Messages about mistakes in a record."""

from __future__ import annotations

from pydantic import ValidationError

from leakgauge.core.kinds import describe_value


def mistake_of(error: ValidationError) -> str:
    """Return the first mistake of a record in one line.

    The line names the field, what was expected, and what was found.

    Args:
        error: The error that pydantic raised when a record was made.

    Example:
        >>> from pydantic import ValidationError
        >>> from leakgauge.records import Cost, mistake_of
        >>> try:
        ...     Cost(evaluations=-1)
        ... except ValidationError as error:
        ...     print(mistake_of(error))
        Cost.evaluations: expected greater than or equal to 0; found -1
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, (error.title, *first["loc"])))
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    given = "nothing" if first["type"] == "missing" else describe_value(first["input"])
    return f"{field}: expected {expected}; found {given}"
