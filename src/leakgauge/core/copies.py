"""Copies of a user's module."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """Return a copy of `module` that shares no tensor with it.

    Tensors that a forward pass left on a module (weight and spectral norm by hooks keep their result) have a
    graph, and Python cannot copy them. The copy gets their values alone. Its next forward computes them anew.
    """
    left = (
        value
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    )
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in left})


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
