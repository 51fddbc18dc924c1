"""Limits on the size of a model. Entries are counted while it is built, before each tensor takes its memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from leakgauge.core.errors import ModelError, SpecificationError

MOST_ENTRIES = 2**31
"""Largest number of entries in all tensors of a model. The memory of the machine can lower this limit."""
MOST_TENSORS = 10_000
"""Largest number of tensors that may be made for one model."""
BYTES_AN_ENTRY = 32
"""Memory that an audit takes for each entry of a model, in bytes.

It covers the model, the client's copy, the adversary's copy, the update and its gradient in
float32. It also covers the values that are kept for second derivatives.
"""


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the tensors that are made inside the block.

    Raise ModelError before a tensor is made that would exceed a limit.

    Args:
        where: What is being built, for the message.
    """

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
        """Count the tensor that an operation is about to make, then run the operation."""
        # Operations that create a tensor, such as torch.empty, take its shape as their first
        # argument.
        if args and isinstance(args[0], list) and all(isinstance(n, int) for n in args[0]):
            self._count(math.prod(args[0]))
        return func(*args, **(kwargs or {}))

    def _count(self, entries: int) -> None:
        """Add one tensor of `entries` entries. Raise ModelError if a limit is exceeded."""
        self.entries += entries
        self.tensors += 1
        if self.entries > self.most:
            raise ModelError(
                self.where,
                expected=f"at most {self.most:,} entries in all its tensors, for the memory of this machine",
                found=f"at least {self.entries:,}",
                remedy="lower the width, the number of classes or the size of the inputs",
            )
        if self.tensors > MOST_TENSORS:
            raise ModelError(
                self.where,
                expected=f"at most {MOST_TENSORS:,} tensors",
                found=f"at least {self.tensors:,}",
                remedy="lower the depth of the model",
            )


def check_memory_of_rounds(where: str, entries: int, remedy: str) -> None:
    """Raise SpecificationError if the models and updates of several rounds would exceed the memory.

    Args:
        where: Name of the option or part that keeps the models, for the message.
        entries: Number of tensor entries that would be kept in all rounds together.
        remedy: What to do, for the message.
    """
    most = memory() // BYTES_AN_ENTRY
    if entries > most:
        raise SpecificationError(
            where,
            expected=f"at most {most:,} entries in the models of all rounds, for the memory of this machine",
            found=f"{entries:,}",
            remedy=remedy,
        )


def memory() -> int:
    """Return the memory that this process may take, in bytes."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import resource  # Windows has no module of this name.
    except ImportError:
        return installed
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)
    return installed if granted == resource.RLIM_INFINITY else min(installed, granted)
