"""How large a model may be: counted while it is built or extended, before each tensor takes its memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from leakgauge.core.errors import ModelError, SpecificationError

MOST_ENTRIES = 2**31
"""Most entries in all tensors of a model, on any machine."""
MOST_TENSORS = 10_000
"""Most tensors that are made for a model."""
BYTES_AN_ENTRY = 32
"""Memory that an audit takes for each entry of a model, in bytes.

The model, the client's and the adversary's copy, the update and its gradient in float32, and what
second derivatives keep.
"""


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, tensors that are made are counted. Raises ModelError before one that is too many."""

    def __init__(self, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where = where
        self.most = min(MOST_ENTRIES, memory() // BYTES_AN_ENTRY)
        self.entries = self.tensors = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Whatever makes a tensor from nothing takes its shape first.
        if args and isinstance(args[0], list) and all(isinstance(n, int) for n in args[0]):
            self._count(math.prod(args[0]))
        return func(*args, **(kwargs or {}))

    def _count(self, entries: int) -> None:
        self.entries += entries
        self.tensors += 1
        if self.entries > self.most:
            raise ModelError(
                self.where,
                expected=f"at most {self.most:,} entries in all its tensors, in the memory here",
                found=f"at least {self.entries:,}",
                remedy="lower its width, its classes or the size of its inputs",
            )
        if self.tensors > MOST_TENSORS:
            raise ModelError(
                self.where,
                expected=f"at most {MOST_TENSORS:,} tensors",
                found="more",
                remedy="lower its depth",
            )


def check_kept(where: str, entries: int, remedy: str) -> None:
    """Raise SpecificationError if the models and updates of several rounds have more entries than an audit may hold."""
    most = memory() // BYTES_AN_ENTRY
    if entries > most:
        raise SpecificationError(
            where,
            expected=f"at most {most:,} entries in the models of all rounds, in the memory here",
            found=f"{entries:,}",
            remedy=remedy,
        )


def memory() -> int:
    """Return the bytes of memory that this process may take."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import resource  # not on every system
    except ImportError:
        return installed
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)
    return installed if granted == resource.RLIM_INFINITY else min(installed, granted)
