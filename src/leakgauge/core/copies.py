"""Copies of a user's objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def copied(value: T) -> T:
    """Return a copy of a module or another object that shares no tensor with it. Functions are not copied.

    Tensors that a forward pass left on a module (weight and spectral norm by hooks keep their result) have a
    graph, and Python cannot copy them. The copy gets their values alone. Its next forward computes them anew.
    Neither can Python copy sparse and other tensors without a storage of their own. Torch clones those.
    """
    return copy.deepcopy(value, {id(left): left.detach().clone() for left in _uncopied(value)})


def _uncopied(value: object) -> Iterator[Tensor]:
    """Yield the tensors that deepcopy cannot copy, in attributes or in containers in attributes."""
    owners = list(value.modules()) if isinstance(value, nn.Module) else [value]
    for owner in owners:
        for held in list(getattr(owner, "__dict__", {}).values()):
            inside = held.values() if isinstance(held, dict) else held
            several = isinstance(held, (dict, list, tuple, set))
            for each in inside if several else (held,):
                if isinstance(each, Tensor) and _resists(each):
                    yield each


def _resists(tensor: Tensor) -> bool:
    """Return whether deepcopy cannot copy a tensor: it has a graph, or no storage."""
    return not tensor.is_leaf or tensor.layout != torch.strided or tensor.is_nested


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
