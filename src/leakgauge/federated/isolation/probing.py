"""Runs of a user's module on inputs of ours, to see what it is. What goes wrong there is a reason, not a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import LeakGaugeError, ProbeError, copied
from leakgauge.core.lines import describe_error


@contextmanager
def probing(what: str = "the model") -> Iterator[None]:
    """Raise every foreign exception as a ProbeError that names what was probed. The cause stays attached."""
    try:
        yield
    except LeakGaugeError:
        raise
    # A user's module and loss can fail in any way that Python knows.
    except Exception as error:
        found = " ".join(describe_error(error).split())
        raise ProbeError(f"{what} fails on a probe: {found[:300]}") from error


def doubled(model: nn.Module) -> nn.Module:
    """Return a float64 copy of the model on the CPU. Raises ProbeError if it cannot be copied."""
    with probing():
        return copied(model).cpu().double()


def single(output: Any) -> Tensor:
    """Return a model's output. Raises ProbeError unless it is one tensor."""
    if not isinstance(output, Tensor):
        raise ProbeError(f"the model returns a {type(output).__name__}, not one tensor")
    return output


def spread(shape: tuple[int, ...], count: int, like: Tensor) -> Tensor:
    """Return `count` examples in unit coordinates (count, *shape), the same in every call, none of them flat."""
    generator = torch.Generator().manual_seed(0)  # probes of a map: any points serve
    unit = torch.rand((count, *shape), generator=generator, dtype=torch.float64)
    return unit.to(like)
