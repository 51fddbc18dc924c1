"""Ranges of options as types. Options in specifications and in Python are checked against them before any compute."""

from __future__ import annotations

import math
import typing
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from leakgauge.core.errors import AttackError, SpecificationError, UserError
from leakgauge.core.kinds import UNIONS, WORDS, admits, describe_annotation, describe_value

MOST = 10**9
"""Largest number of steps, examples or parts. A loop over more takes longer than a day."""

Count = Annotated[int, Ge(1), Le(MOST)]
Whole = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Fraction = Annotated[float, Ge(0), Lt(1)]


def check_argument(
    where: str, hint: Any, value: object, error: type[UserError] = SpecificationError
) -> None:
    """Raise `error` if the annotation `hint` does not admit the value.

    Args:
        where: The name of the value, for the message.
        hint: The annotation.
        value: The value to check.
        error: The class of the error to raise.
    """
    if not admits(hint, value):
        expected = describe_annotation(hint)
        raise error(
            where, expected=expected, found=describe_value(value), remedy="correct the value"
        )


def check_fields(
    part: object, error: type[UserError] = SpecificationError, *, without: Collection[str] = ()
) -> None:
    """Raise `error` if a field of a dataclass is of another kind than annotated, or out of range.

    In classes of this package every field is checked. In a user's class, only fields whose
    annotation has a range are checked.

    Args:
        part: The dataclass to check.
        error: The class of the error to raise.
        without: Names of fields to leave out.
    """
    kind: Any = type(part)
    for name, hint in _checked(kind).items():
        if name not in without:
            check_argument(f"{kind.__name__}.{name}", hint, getattr(part, name), error)


def check_made(part: object) -> None:
    """Raise AttackError if an object that an attack returned has a field of a wrong kind or out of range."""
    try:
        check_fields(part)
    except SpecificationError as error:
        raise AttackError(str(error)) from None


def check_ranges(part: object, error: type[UserError] = SpecificationError) -> None:
    """Raise `error` if a field of a dataclass, or of one inside it, is wrong or out of range.

    `check_fields` says which fields are checked.

    Args:
        part: The object to check. An object that is not a dataclass passes.
        error: The class of the error to raise.
    """
    if not is_dataclass(part) or isinstance(part, type):
        return
    kind: Any = type(part)
    check_fields(part, error)
    for name in _checked(kind):
        value = getattr(part, name)
        for inner in value if isinstance(value, list | tuple) else (value,):
            check_ranges(inner, error)


@cache
def _checked(kind: Any) -> dict[str, Any]:
    """Return the annotations to check, by the name of the field."""
    ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:
        if ours:
            raise
        # A user's module may import some names only for its type checker.
        return {}
    names = [field.name for field in fields(kind) if field.name in hints]
    return {name: hints[name] for name in names if ours or _has_range(hints[name])}


def _has_range(hint: Any) -> bool:
    """Return whether an annotation is a number with a range. Numbers inside containers do not count."""
    if typing.get_origin(hint) is Annotated:
        kind, *limits = typing.get_args(hint)
        return kind in (int, float) and any(type(limit) in WORDS for limit in limits)
    inner = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    return any(map(_has_range, inner))
