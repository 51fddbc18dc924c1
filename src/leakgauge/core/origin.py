"""Tests of whether a class or an object is the library's own.

They compare objects, not names: a user's class can carry the name of one of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

FOLDER = Path(__file__).resolve().parent.parent
"""The folder of the package."""
HEAP = 1 << 9
"""Flag of a class that Python code created at run time. A class written in C does not have it."""
NEUTRAL = sys.stdlib_module_names | {"builtins", "numpy", "torch"}
"""Top-level modules whose objects are values of options, not parts of an attack or a defense."""


def is_our_class(kind: type) -> bool:
    """Return whether a module in the package's folder holds this class under its qualified name."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return isinstance(file, str) and _is_inside(file) and _is_exported(kind)


def is_ours(value: object) -> bool:
    """Return whether an attack or a defense is the library's own, with all the parts inside it.

    Networks, functions, and values of Python, NumPy and torch count as options, not as parts.
    """
    held = getattr(value, "__dict__", {})
    return is_our_object(value) and all(map(_is_option_or_ours, held.values()))


def is_our_object(value: object) -> bool:
    """Return whether an object is an instance of one of our classes, with unchanged methods.

    An attribute of the object that has the name of a method would replace that method. The parts
    that the object holds are not examined.
    """
    kind = type(value)
    if not is_our_class(kind):
        return False
    names = {f.name for f in fields(value)} if is_dataclass(value) else set[str]()
    held = set(getattr(value, "__dict__", {})) - names
    return not any(callable(getattr(kind, name, None)) for name in held)


def _is_option_or_ours(value: object) -> bool:
    """Return whether a value is an option or a part of our own, with all that it holds."""
    if isinstance(value, nn.Module):
        return True
    kind = type(value)
    written_in_c = not kind.__flags__ & HEAP
    if written_in_c or (kind.__module__.partition(".")[0] in NEUTRAL and _is_exported(kind)):
        return all(map(_is_option_or_ours, _items(value)))
    return is_ours(value)


@cache
def _is_inside(file: str) -> bool:
    """Return whether a file lies in the package's folder."""
    return Path(file).resolve().is_relative_to(FOLDER)


def _is_exported(kind: type) -> bool:
    """Return whether a class is found in its module under its qualified name."""
    held: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        held = getattr(held, "__dict__", {}).get(name)
    return held is kind


def _items(value: object) -> Iterable[object]:
    """Return the items of a container, or nothing for another value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list | tuple | set | frozenset) else ()
