"""Copies of a user's modules and objects, and modules without their wrappers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def deep_copy(value: T) -> T:
    """Return a copy of a module or another object that shares no tensor with it.

    Functions are not copied. Two kinds of tensors resist Python's deepcopy, and are cloned instead:

    - A tensor with a graph. Hooks of weight norm and spectral norm leave one on a module. The copy
      gets its values only. The next forward pass of the copy computes the tensor again.
    - A tensor without storage, such as a sparse tensor.
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
                if isinstance(each, Tensor) and _resists_copying(each):
                    yield each


def _resists_copying(tensor: Tensor) -> bool:
    """Return whether deepcopy cannot copy a tensor: it has a graph, or it has no storage."""
    return not tensor.is_leaf or tensor.layout != torch.strided or tensor.is_nested


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside a wrapper of torch, or the module itself if it has none.

    The wrappers are `torch.compile`, DataParallel and DistributedDataParallel. The wrapper and the
    module inside compute the same function. The parameters' names have no prefix of the wrapper.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
