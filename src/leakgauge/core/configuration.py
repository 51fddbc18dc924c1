"""The configuration of an object as one line of a record. Networks and tensors are written as short digests."""

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

    A network or a tensor is written as its kind, its size and a digest of its numbers. So two
    networks with different weights have different reprs, even if their architecture is the same.
    """

    def __repr__(self) -> str:
        """Return the class and its fields in one line."""
        shown = [f"{f.name}={write_value(getattr(self, f.name))}" for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def write_value(value: Any) -> str:
    """Return a value in one line."""
    text = repr(value)
    if isinstance(value, nn.Module) and "\n" in text:
        count = sum(p.numel() for p in value.parameters())
        return f"{type(value).__name__}[{count} parameters, {digest(value.state_dict().values())}]"
    if isinstance(value, Tensor):
        return f"Tensor[{tuple(value.shape)}, {digest([value])}]"
    return " ".join(text.split())


UNNAMED = re.compile(r"<(?:[^<>]|<locals>)*?(\w+) object at 0x[0-9a-fA-F]+>")
"""The default repr of an object. Group 1 is the name of its class."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""A memory address inside a repr."""


def configuration_of(part: object) -> str:
    """Return the repr of a part without memory addresses. It is the same in every process.

    An object whose class has no repr of its own is written as `ClassName()`.
    """
    return ADDRESS.sub("", UNNAMED.sub(r"\1()", repr(part)))


def digest(tensors: Iterable[Tensor]) -> str:
    """Return eight hexadecimal digits that depend on all numbers of the tensors."""
    seen = hashlib.sha256()
    for tensor in tensors:
        seen.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return seen.hexdigest()[:8]
