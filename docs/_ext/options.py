"""The options of a class as rows of a table: name, type, range, default."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt

from leakgauge.audit.options import options_of, type_hints
from leakgauge.catalog import brief
from leakgauge.core.ranges import MOST

PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def rows_of(part: type) -> Iterator[str]:
    """Yield one row of a Markdown table for each option."""
    hints = type_hints(part)
    for name, parameter in options_of(part).items():
        kind, limits = described(hints.get(name, Any))
        required = parameter.default is parameter.empty
        default = "required" if required else f"`{brief(parameter.default)}`"
        cells = (f"`{name}`", kind, limits, default)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def described(hint: Any) -> tuple[str, str]:
    """Return the type that an annotation names, and its range, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [each for each in inner[1:] if isinstance(each, Ge | Gt | Le | Lt)]
        return described(inner[0])[0], interval(limits) if limits else ""
    if origin in (Union, types.UnionType):
        kinds, limits = zip(*map(described, inner), strict=True)
        return " or ".join(dict.fromkeys(kinds)), " or ".join(filter(None, limits))
    if origin is Literal:
        return "one of", ", ".join(f"`{value}`" for value in inner)
    if hint in PLAIN:
        return PLAIN[hint], ""
    if hint in (None, type(None)):
        return "none", ""
    if origin is tuple and inner:
        return f"list of {described(inner[0])[0]}", ""
    return f"`{getattr(hint, '__name__', str(hint))}`", ""


def interval(limits: Sequence[Any]) -> str:
    """Return the range that limits leave, as an interval. A limit that only guards against misuse is left out."""
    low, high, opening, closing = "-∞", "∞", "(", ")"
    for limit in limits:
        match limit:
            case Ge(bound):
                low, opening = f"{bound:g}", "["
            case Gt(bound):
                low, opening = f"{bound:g}", "("
            case Le(bound) if bound < MOST:
                high, closing = f"{bound:g}", "]"
            case Lt(bound) if bound < MOST and not math.isinf(bound):
                high, closing = f"{bound:g}", ")"
    return f"{opening}{low}, {high}{closing}"
