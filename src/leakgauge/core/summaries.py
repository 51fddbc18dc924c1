"""How objects that hold tensors are printed: a few lines that tell kinds, shapes and sizes, never values of tensors."""

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
"""Most items of a tuple or list that are shown one by one."""


class Summarized:
    """A dataclass (with repr=False) that is printed as one line for each field, at most 20 in all."""

    def __repr__(self) -> str:
        shown = [f"    {f.name}={brief(getattr(self, f.name))}," for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return "\n".join([f"{type(self).__name__}(", *shown, ")"])


def brief(value: Any) -> str:
    """Return a value in one line of at most LINE characters, without the numbers of any tensor."""
    text = " ".join(_brief(value).split())
    return text if len(text) <= LINE else f"{text[: LINE - 3]}..."


def _brief(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, nn.Module):
        modules, numbers = len(list(value.modules())), sum(p.numel() for p in value.parameters())
        return f"{kind} of {modules} modules, {numbers} parameters"
    if isinstance(value, str | bytes):
        return repr(value[: 2 * LINE])
    if isinstance(value, Mapping):
        return _mapping(kind, value)
    if isinstance(value, Collection):
        plain = len(value) <= FEW and all(_plain(each) for each in value)
        return repr(value) if plain else f"{kind} of {len(value)}"
    if is_dataclass(value) and not isinstance(value, type):
        shown = (f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if f.repr)
        return f"{kind}({', '.join(shown)})"
    if isinstance(value, partial):
        return f"partial of {_brief(value.func)}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None) or kind}.{value.__qualname__}"
    # Another library's object may print its arrays.
    text = repr(value)
    return kind if "tensor(" in text or "array(" in text else text


def _mapping(kind: str, value: Mapping[Any, Any]) -> str:
    tensors = [each for each in value.values() if isinstance(each, Tensor)]
    if value and len(tensors) == len(value):
        return f"{kind} of {len(value)} tensors, {sum(t.numel() for t in tensors)} numbers"
    return f"{kind} of {len(value)}"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


__all__ = ["Summarized", "brief"]
