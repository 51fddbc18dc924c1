"""Printing of objects that hold tensors: a few lines with kinds, shapes and sizes, never the values of tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

LINE = 100
"""Most characters of one value."""
FEW = 4
"""Most items of a tuple or a list that are shown one by one."""


class Summarized:
    """A dataclass (with repr=False) that prints one line for each field, and at most 20 lines in all."""

    def __repr__(self) -> str:
        """Return the class and one line for each field."""
        shown = [f"    {f.name}={brief(getattr(self, f.name))}," for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return "\n".join([f"{type(self).__name__}(", *shown, ")"])


def brief(value: Any) -> str:
    """Return a value in one line of at most LINE characters, without the numbers of any tensor."""
    text = " ".join(_summarize(value).split())
    return text if len(text) <= LINE else f"{text[: LINE - 3]}..."


def _summarize(value: Any) -> str:
    """Return a summary of a value, of any length."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, nn.Module):
        modules, numbers = len(list(value.modules())), sum(p.numel() for p in value.parameters())
        return f"{kind} of {modules} modules, {numbers} parameters"
    if isinstance(value, str | bytes):
        return repr(value[: 2 * LINE])
    if isinstance(value, Mapping):
        return _summarize_mapping(kind, value)
    if isinstance(value, Collection):
        plain = len(value) <= FEW and all(_is_plain(each) for each in value)
        return repr(value) if plain else f"{kind} of {len(value)}"
    if is_dataclass(value) and not isinstance(value, type):
        shown = (f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if f.repr)
        return f"{kind}({', '.join(shown)})"
    if isinstance(value, partial):
        return f"partial of {_summarize(value.func)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None) or kind}.{value.__qualname__}"
    # An object of another library may print its arrays. Then only its kind is shown.
    text = repr(value)
    return kind if "tensor(" in text or "array(" in text else text


def _summarize_mapping(kind: str, value: Mapping[Any, Any]) -> str:
    """Return the number of items of a mapping, and of numbers if all items are tensors."""
    tensors = [each for each in value.values() if isinstance(each, Tensor)]
    if value and len(tensors) == len(value):
        return f"{kind} of {len(value)} tensors, {sum(t.numel() for t in tensors)} numbers"
    return f"{kind} of {len(value)}"


def _is_plain(value: Any) -> bool:
    """Return whether a value is None, a number or text."""
    return value is None or isinstance(value, bool | int | float | str)


__all__ = ["Summarized", "brief"]
