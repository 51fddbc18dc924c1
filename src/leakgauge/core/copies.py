"""Copies of a user's objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")


def copied(value: T) -> T:
    """Return a copy of a module or another object that shares no tensor with it. Functions are not copied.

    Tensors that a forward pass left on a module (weight and spectral norm by hooks keep their result) have a
    graph, and Python cannot copy them. The copy gets their values alone. Its next forward computes them anew.
    """
    return copy.deepcopy(value, {id(left): left.detach().clone() for left in _computed(value)})


def _computed(value: object) -> Iterator[Tensor]:
    """Yield the tensors with a graph that attributes hold, or containers in attributes."""
    owners = list(value.modules()) if isinstance(value, nn.Module) else [value]
    for owner in owners:
        for held in list(getattr(owner, "__dict__", {}).values()):
            inside = held.values() if isinstance(held, dict) else held
            several = isinstance(held, (dict, list, tuple, set))
            for each in inside if several else (held,):
                if isinstance(each, Tensor) and not each.is_leaf:
                    yield each


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, DataParallel and DistributedDataParallel; else `module` itself.

    All compute the same function. The names of the parameters lose the wrapper's prefix.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
