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

    Functions are not copied. Python cannot copy a tensor that has a graph. A forward pass can leave
    one on a module, as hooks of weight norm and spectral norm do. The copy gets only the values of
    that tensor, and its next forward pass computes them anew. Python also cannot copy tensors
    without storage, such as sparse ones. Torch clones those.
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
    """Return the module inside `torch.compile` or a data-parallel wrapper, or else `module` itself.

    These wrappers are DataParallel and DistributedDataParallel. The wrapper and the module inside
    compute the same function. The names of the parameters lose the wrapper's prefix.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
