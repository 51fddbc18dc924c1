"""Checks of values against annotations: kinds of values, and ranges of numbers. Nothing is converted."""

from __future__ import annotations

import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from leakgauge.core.summaries import brief

WORDS: dict[Any, Callable[[Any], str]] = {
    Ge: lambda limit: f"of at least {limit.ge}",
    Gt: lambda limit: f"greater than {limit.gt}",
    Le: lambda limit: f"of at most {limit.le}",
    Lt: lambda limit: f"less than {limit.lt}",
}
"""The words of a message for each kind of limit."""
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
"""The words of a message for each plain type."""
UNIONS = (Union, types.UnionType)
"""The two forms in which Python represents a union of types."""
MOST_BITS = sys.float_info.max_exp
"""Bits of the largest whole numbers that a float can hold."""
LONG = 10**30
"""Smallest whole number that a message describes by its bits instead of its digits."""


def admits(hint: Any, value: Any) -> bool:
    """Return whether an annotation admits a value.

    A list passes as a tuple. A NumPy number passes as a number, but a tensor does not. True and
    False are not numbers. An annotation that this function does not understand admits every value.
    """
    if hint is Any:  # Any is a class since Python 3.11, so this test comes first.
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return admits(inner[0], value) and all(_is_within(value, limit) for limit in inner[1:])
    if origin in UNIONS:
        return any(admits(each, value) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if hint in PLAIN:
        return _admits_plain(hint, value)
    if hint in (None, type(None)):
        return value is None
    if isinstance(origin, type):
        return _admits_container(origin, inner, value)
    protocol = isinstance(hint, type) and getattr(hint, "_is_protocol", False)
    if protocol and isinstance(value, type):  # A class has the methods of its objects, unbound.
        return False
    if protocol and not getattr(hint, "_is_runtime_protocol", False):
        return True
    return not isinstance(hint, type) or isinstance(value, hint)


def describe_annotation(hint: Any) -> str:
    """Return the values that an annotation admits, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _describe_range(inner[0], inner[1:])
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(map(describe_annotation, inner)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if hint in PLAIN:
        return PLAIN[hint]
    if hint in (None, type(None)):
        return "None"
    if origin is Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return (
            f"a dictionary, each value: {describe_annotation(inner[-1])}"
            if inner
            else "a dictionary"
        )
    if isinstance(origin, type) and issubclass(origin, Collection):
        known = inner and inner[0] is not Any
        return f"a sequence, each item: {describe_annotation(inner[0])}" if known else "a sequence"
    name = getattr(hint, "__name__", str(hint))
    if getattr(hint, "_is_protocol", False):
        return f"an object with the methods of {name}"
    return f"an object of type {name}"


def describe_value(value: Any) -> str:
    """Return a value in one line, for a message. Only plain values and tensors are described beyond their type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and abs(value) >= LONG:
        words = f"a whole number of {value.bit_length()} bits"
        return words if value.bit_length() <= MOST_BITS else f"{words}, too large for a float"
    if value is None or isinstance(value, bool | int | float | str | bytes | Tensor | np.ndarray):
        return brief(value)
    if type(value) in (list, tuple, dict) and not value:
        return repr(value)
    return f"an object of type {type(value).__name__}"


def _admits_plain(hint: type, value: Any) -> bool:
    """Return whether a value is a plain value of type `hint`: bool, int, float or str."""
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, Integral if hint is int else Real):
        return False
    return hint is int or _fits_float(value)


def _fits_float(value: Real) -> bool:
    """Return whether a number converts to a float. Infinity passes, NaN does not."""
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def _admits_container(origin: Any, inner: tuple[Any, ...], value: Any) -> bool:
    """Return whether a value is a container of kind `origin` whose items `inner` admits."""
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return False
        return not inner or all(
            admits(inner[0], key) and admits(inner[1], each) for key, each in value.items()
        )
    if origin is not Callable and issubclass(origin, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
            return False
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(admits, inner, value))
        return not inner or all(admits(inner[0], each) for each in value)
    if origin is Callable:
        return callable(value)
    return isinstance(value, origin)


def _is_within(value: Any, limit: Any) -> bool:
    """Return whether a number is within a limit. Other metadata of an annotation sets no limit."""
    match limit:
        case Ge(bound):
            return bool(value >= bound)
        case Gt(bound):
            return bool(value > bound)
        case Le(bound):
            return bool(value <= bound)
        case Lt(bound):
            return bool(value < bound)
    return True


def _describe_range(kind: Any, limits: tuple[Any, ...]) -> str:
    """Return a number's kind and range, in words."""
    known = [limit for limit in limits if type(limit) in WORDS]
    if kind not in (int, float) or not known:
        return describe_annotation(kind)
    name = "a whole number" if kind is int else "a finite number"
    bounds = [WORDS[type(limit)](limit) for limit in known if limit != Lt(math.inf)]
    return f"{name} {' and '.join(bounds)}".rstrip()
