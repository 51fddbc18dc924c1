"""A walk over every object that Python code can reach from one object.

It follows attributes, items, closures and the globals that code names.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakgauge.federated.isolation.layouts import is_dense

_NUMBERS = (bool, int, float, complex, np.number, np.bool_)
_ATOMS = (*_NUMBERS, type(None), torch.dtype, torch.device, torch.Size)
_TEXT = 8
"""Fewest characters of a text that is yielded. A shorter text cannot hold recognizable numbers of a batch."""
_LIBRARY = tuple(
    path
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(key))
)


@dataclass(frozen=True)
class Place:
    """An object and the path that leads to it."""

    path: str
    value: Any


def reached(root: object, name: str, *, skipped: Sequence[object] = ()) -> Iterator[Place]:
    """Yield every object that `root` leads to, with the shortest path to it.

    Functions are followed through closures, defaults, attributes and the globals that their code
    names. Classes and globals of installed packages are not followed: they hold nothing that one
    training passed in.

    Args:
        root: The object where the walk starts.
        name: The start of each path.
        skipped: Objects that are neither yielded nor followed.
    """
    seen = {id(each) for each in skipped if each is not None}
    # Objects that the walk creates stay alive, so that no other object gets their identity.
    alive: list[object] = []
    # The walk is breadth first, so the path to each object is the shortest.
    left = deque([Place(name, root)])
    while left:
        place = left.popleft()
        value = place.value
        if _is_atom(value) or _key(value) in seen:
            continue
        seen.add(_key(value))
        alive.append(value)
        yield place
        left.extend(Place(f"{place.path}{step}", each) for step, each in followed(value))


def _key(value: Any) -> int:
    """Return a number that identifies an object: its identity, or the address of a storage's memory.

    Each access to a storage creates a new Python object, so its identity does not identify the
    storage.
    """
    return -value.data_ptr() if isinstance(value, torch.UntypedStorage) else id(value)


def _is_atom(value: Any) -> bool:
    """Return whether a value leads to no other object and is no long text."""
    if isinstance(value, str):
        return len(value) < _TEXT
    return isinstance(value, _ATOMS)


def followed(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each object that `value` leads to directly, with the step of the path."""
    if isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, np.ndarray):
        yield ".base", value.base
        if value.dtype.kind == "O":
            yield "[...]", list(value.flat)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", each) for key, each in list(value.items()))
        yield ".keys()", [key for key in value if not _is_atom(key)]
        yield from _attributes(value)
    elif isinstance(value, (list, tuple)):
        plain = all(map(_is_atom, value))
        yield from () if plain else ((f"[{i}]", each) for i, each in enumerate(value))
        yield from _attributes(value)
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType):
        yield "", value.__self__
        yield "", value.__func__
    elif isinstance(value, partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif isinstance(value, CellType):
        yield from _of_cell("", value)
    elif isinstance(value, weakref.ref):
        yield "()", value()
    elif isinstance(value, type):
        if not comes_installed(value):
            yield f"<{type(value).__name__}>", type(value)
            yield from ((f".{name}", each) for name, each in vars(value).items())
            yield from ((f"<{base.__name__}>", base) for base in value.__bases__)
    elif isinstance(value, (property, staticmethod, classmethod)):
        yield from ((f"<{i}>", each) for i, each in enumerate(gc.get_referents(value)))
    elif isinstance(value, GeneratorType):
        yield ".gi_frame", value.gi_frame
    elif isinstance(value, FrameType):
        yield ".f_locals", value.f_locals
    elif isinstance(value, torch.autograd.graph.Node):
        yield from _of_node(value)
    elif isinstance(value, ContextVar):
        yield ".get()", value.get(None)
    elif isinstance(value, str):
        # A subclass of str may have attributes.
        yield from _attributes(value)
    elif isinstance(value, BuiltinFunctionType):
        yield ".__self__", value.__self__
    elif not isinstance(value, (ModuleType, CodeType)):
        yield from _of_object(value)


def _of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each object that an object of any other type leads to."""
    yield from _attributes(value)
    if is_dataclass(value):
        yield from ((f".{f.name}", getattr(value, f.name, None)) for f in fields(value))
    if isinstance(value, AbstractSet):
        # Sorted, because a set that is filled again may have another order.
        yield "{...}", sorted(value, key=hash)
    yield f"<{type(value).__name__}>", type(value)
    # Python's garbage collector also sees into caches, iterators and objects with slots.
    for i, each in enumerate(gc.get_referents(value)):
        if not isinstance(each, ModuleType):
            yield f"<{i}>", each


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes in the dictionary of an object."""
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        yield from ((f".{name}", each) for name, each in list(held.items()))


def _of_tensor(tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """Yield the attributes, gradient, hooks, graph and larger memory of a tensor."""
    yield from _attributes(tensor)
    if tensor.is_leaf:
        yield ".grad", tensor.grad
    yield "._backward_hooks", tensor._backward_hooks
    if tensor.grad_fn is not None:
        yield ".grad_fn", tensor.grad_fn
    # A parameter is left out: it may share one buffer with all others, which the update reveals anyway.
    if is_dense(tensor) and not isinstance(tensor, torch.nn.Parameter):
        # Lazy tensors have no memory.
        with suppress(RuntimeError, NotImplementedError):
            storage = tensor.untyped_storage()
            if storage.nbytes() > tensor.numel() * tensor.element_size():
                yield ".untyped_storage()", storage


def _of_node(node: torch.autograd.graph.Node) -> Iterator[tuple[str, Any]]:
    """Yield the tensors that a node of a graph saved or accumulates into, and the nodes before it."""
    yield from _attributes(node)
    # The last node of each branch holds the leaf tensor that receives the gradient.
    yield ".variable", getattr(node, "variable", None)
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            # A backward pass may have freed the saved tensors.
            with suppress(RuntimeError):
                yield f".{name}", getattr(node, name)
    yield from ((f".next_functions[{i}]", each) for i, (each, _) in enumerate(node.next_functions))


def _of_cell(step: str, cell: CellType) -> Iterator[tuple[str, Any]]:
    """Yield the value of a closure variable, if it has one."""
    try:
        yield step, cell.cell_contents
    except ValueError:  # The variable has no value yet.
        return


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function leads to: its closure, defaults, attributes and globals."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _of_cell(f".<closure {name}>", cell)
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__
    yield from _attributes(function)
    if comes_installed(function):
        return
    names = _named(function.__code__)
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield f".<global {name}>", value
        elif not _in_library(getattr(value, "__file__", None), value.__name__):
            # A module is not followed as a whole, only the attributes that the code may name.
            for inner in names & vars(value).keys():
                yield f".<global {name}.{inner}>", vars(value)[inner]


def globals_of(function: FunctionType) -> Iterator[dict[str, Any]]:
    """Yield the globals of a function's module, and of the user's modules that its code names."""
    yield function.__globals__
    for name in _named(function.__code__) & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, ModuleType) and not _in_library(
            getattr(value, "__file__", None), value.__name__
        ):
            yield vars(value)


def _named(code: CodeType) -> set[str]:
    """Return the names that code looks up, including the code of inner functions."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_named, inner))


def comes_installed(value: Any) -> bool:
    """Return whether a class or function comes with Python, an installed package or this library."""
    name = getattr(value, "__module__", None) or "builtins"
    module = sys.modules.get(name)
    return _in_library(getattr(module, "__file__", None), name)


@cache
def _in_library(file: str | None, name: str) -> bool:
    """Return whether a module belongs to Python, to an installed package or to this library."""
    root = name.partition(".")[0]
    if root == "leakgauge" or root in sys.stdlib_module_names:
        return root != "__main__"
    return file is not None and file.startswith(_LIBRARY)


__all__ = ["Place", "comes_installed", "globals_of", "reached"]
