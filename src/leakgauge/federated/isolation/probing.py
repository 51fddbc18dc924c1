"""Probes: runs of a user's module on generated inputs.

If a probe fails, the method is inapplicable, and the audit goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import LeakGaugeError, ProbeError, deep_copy
from leakgauge.core.lines import describe_error


@contextmanager
def probing(what: str = "the model") -> Iterator[None]:
    """Raise any exception of the user's code as a ProbeError. `what` names the part that was probed.

    The original exception is the cause of the ProbeError.
    """
    try:
        yield
    except LeakGaugeError:
        raise
    # A user's module or loss can raise any exception.
    except Exception as error:
        found = " ".join(describe_error(error).split())
        raise ProbeError(f"{what} fails on a probe: {found[:300]}") from error


def doubled(model: nn.Module) -> nn.Module:
    """Return a float64 copy of the model on the CPU, or raise ProbeError if it cannot be copied."""
    with probing():
        return deep_copy(model).cpu().double()


def single(output: Any) -> Tensor:
    """Return a model's output unchanged. Raise ProbeError unless it is one tensor."""
    if not isinstance(output, Tensor):
        raise ProbeError(f"the model returns a {type(output).__name__}, not one tensor")
    return output


def spread(shape: tuple[int, ...], count: int, like: Tensor) -> Tensor:
    """Return `count` random examples `(count, *shape)` in unit coordinates, the same in every call.

    `like` gives the type and device.
    """
    # A fixed seed is enough: a probe works at any points.
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand((count, *shape), generator=generator, dtype=torch.float64)
    return unit.to(like)
