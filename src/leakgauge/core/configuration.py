"""How an object that holds networks or tensors is written in a record: one line, by what it was made with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn


class Configured:
    """A dataclass (with repr=False) whose repr is its configuration in one line.

    A value whose own repr takes several lines is written by its kind, its size and a digest of its numbers, so that
    two networks of one architecture differ in a record.
    """

    def __repr__(self) -> str:
        shown = [f"{f.name}={written(getattr(self, f.name))}" for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def written(value: Any) -> str:
    """A value in one line."""
    text = repr(value)
    if isinstance(value, nn.Module) and "\n" in text:
        count = sum(p.numel() for p in value.parameters())
        return f"{type(value).__name__}[{count} parameters, {digest(value.state_dict().values())}]"
    if isinstance(value, Tensor):
        return f"Tensor[{tuple(value.shape)}, {digest([value])}]"
    return " ".join(text.split())


UNNAMED = re.compile(r"<(?:[^<>]|<locals>)*?(\w+) object at 0x[0-9a-fA-F]+>")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def configuration_of(part: object) -> str:
    """Return the repr of a part without addresses in memory, so that it is the same in every process.

    An object whose class has no repr of its own is written `ClassName()`.
    """
    return ADDRESS.sub("", UNNAMED.sub(r"\1()", repr(part)))


def digest(tensors: Iterable[Tensor]) -> str:
    """Eight hexadecimal digits that tell other numbers apart."""
    seen = hashlib.sha256()
    for tensor in tensors:
        seen.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return seen.hexdigest()[:8]
