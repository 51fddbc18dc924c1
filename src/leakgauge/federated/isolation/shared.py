"""Restoration of objects that client and adversary share: classes, functions and globals.

A copy of a model does not copy these. A forward or a loss may write its inputs to an attribute of
its class, to a default or to a global. The adversary can read the same classes and globals. So each
change that a client's run makes there is undone after the run.
"""

from __future__ import annotations

import array
import ctypes
import io
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import _lru_cache_wrapper
from mmap import mmap
from types import CellType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakgauge.federated.isolation.layouts import bits_of, is_dense
from leakgauge.federated.isolation.reach import comes_installed, globals_of, reached

LARGEST = 1 << 24
"""Largest array that is copied and restored, in bytes. Larger arrays are not restored, only searched for the batch."""
_OF_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__", "__doc__", "__name__", "__qualname__")
_OF_CLASS = ("__name__", "__qualname__")
_STATES: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    random.Random: (random.Random.getstate, random.Random.setstate),
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    np.random.Generator: (
        lambda each: each.bit_generator.state,
        lambda each, state: setattr(each.bit_generator, "state", state),
    ),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    bytearray: (bytes, lambda each, held: each.__setitem__(slice(None), held)),
    array.array: (lambda each: each[:], lambda each, held: each.__setitem__(slice(None), held)),
}
"""For each type implemented in C: the functions that read and restore the state of an object."""


@contextmanager
def restored(*objects: object) -> Iterator[None]:
    """Restore on exit what the code inside changes in any object that `objects` lead to.

    The objects are also restored after an exception. These are restored:

    - attributes of classes and objects, functions and closure variables;
    - globals of the modules whose code is reached;
    - the content of lists, dictionaries, sets, deques and arrays;
    - generators of random numbers.

    Caches of `functools` are cleared if they grew. Parameters are left alone, since each client has
    its own copy. Classes, functions and modules of Python, of installed packages and of this library
    are left alone too.
    """
    undo: list[Callable[[], None]] = []
    caches: list[Callable[[], None]] = []
    modules: set[int] = set()
    for number, root in enumerate(objects):
        for place in reached(root, str(number)):
            undo += _undoings(place.value, modules)
            if isinstance(place.value, _lru_cache_wrapper):
                caches.append(_of_cache(place.value))
    try:
        yield
    finally:
        # Caches are cleared last. Restoring the dictionary inside a cache would otherwise fill the
        # cleared cache again.
        for each in undo + caches:
            each()


def _undoings(value: Any, modules: set[int]) -> Iterator[Callable[[], None]]:
    """Yield functions that restore an object to its state at the time of this call."""
    if isinstance(value, type):
        yield from () if comes_installed(value) else (_of_class(value),)
        return
    if isinstance(value, FunctionType):
        yield from () if comes_installed(value) else _of_function(value, modules)
    elif isinstance(value, CellType):
        yield _of_cell(value)
    elif isinstance(value, dict):
        yield _of_dictionary(value)
    elif isinstance(value, (list, deque, set)):
        yield _of_collection(value)
    elif isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, np.ndarray):
        yield from _of_array(value)
    elif isinstance(value, ContextVar):
        yield _of_variable(value)
    elif isinstance(value, (io.StringIO, io.BytesIO)) and not value.closed:
        yield _of_stream(value)
    elif isinstance(value, (ctypes.Array, mmap)):
        yield _of_memory(value)
    elif type(value) in _STATES:
        read, write = _STATES[type(value)]
        yield _of_state(value, read, write)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, ModuleType):
        yield _of_dictionary(attributes)
    yield from _of_slots(value)


def _of_dictionary(content: dict[Any, Any]) -> Callable[[], None]:
    """Return a function that restores the content of a dictionary."""
    # The methods of the base class are called, since a subclass may override them.
    kind = OrderedDict if isinstance(content, OrderedDict) else dict
    before = list(kind.items(content))

    def undo() -> None:
        if not _same(list(kind.items(content)), before):
            kind.clear(content)
            for key, value in before:
                kind.__setitem__(content, key, value)

    return undo


def _same(now: list[tuple[Any, Any]], before: list[tuple[Any, Any]]) -> bool:
    """Return whether two lists of pairs hold identical objects, in the same order."""
    if len(now) != len(before):
        return False
    return all(k is i and v is j for (k, v), (i, j) in zip(now, before, strict=True))


def _of_collection(content: Any) -> Callable[[], None]:
    """Return a function that restores the content of a list, deque or set."""
    kind: Any = next(kind for kind in (list, deque, set) if isinstance(content, kind))
    before = list(kind.__iter__(content))

    def undo() -> None:
        now = list(kind.__iter__(content))
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            kind.clear(content)
            (kind.update if kind is set else kind.extend)(content, before)

    return undo


def _of_class(value: type) -> Callable[[], None]:
    """Return a function that restores the attributes and names of a class."""
    before = dict(vars(value))
    names = {name: getattr(value, name) for name in _OF_CLASS}

    def undo() -> None:
        now = dict(vars(value))
        for name in now.keys() - before.keys():
            type.__delattr__(value, name)
        for name, held in before.items():
            if name not in now or now[name] is not held:
                type.__setattr__(value, name, held)
        for name, held in names.items():
            if getattr(value, name) is not held:
                type.__setattr__(value, name, held)

    return undo


def _of_function(value: FunctionType, modules: set[int]) -> Iterator[Callable[[], None]]:
    """Yield functions that restore a function, its closure and the globals that its code names."""
    before = {name: getattr(value, name) for name in _OF_FUNCTION}

    def undo() -> None:
        for name, held in before.items():
            if getattr(value, name) is not held:
                setattr(value, name, held)

    yield undo
    for cell in value.__closure__ or ():
        yield _of_cell(cell)
    for content in globals_of(value):
        if id(content) not in modules:
            modules.add(id(content))
            yield _of_dictionary(content)


def _of_cell(cell: CellType) -> Callable[[], None]:
    """Return a function that restores a closure variable."""
    try:
        before = cell.cell_contents
    except ValueError:  # The variable has no value yet.
        return lambda: _empty(cell)

    def undo() -> None:
        cell.cell_contents = before

    return undo


def _empty(cell: CellType) -> None:
    """Empty a closure variable."""
    try:
        del cell.cell_contents
    except ValueError:  # The cell is still empty.
        return


def _of_tensor(value: Tensor) -> Iterator[Callable[[], None]]:
    """Yield functions that restore the gradient and the values of a plain tensor."""
    if isinstance(value, nn.Parameter) or value.is_inference():
        return
    if value.is_leaf:
        gradient = value.grad
        yield lambda: None if value.grad is gradient else setattr(value, "grad", gradient)
    if is_dense(value) and value.is_contiguous() and value.nbytes <= LARGEST:
        before = value.detach().clone()

        def undo() -> None:
            now = value.detach()
            if now.shape == before.shape and not torch.equal(bits_of(now), bits_of(before)):
                now.copy_(before)

        yield undo


def _of_array(value: np.ndarray) -> Iterator[Callable[[], None]]:
    """Yield a function that restores the values of an array."""
    if value.nbytes <= LARGEST and value.flags.writeable:
        before = value.copy()
        yield lambda: np.copyto(value, before)


def _of_variable(value: ContextVar[Any]) -> Callable[[], None]:
    """Return a function that restores a context variable."""
    nothing = object()
    before = value.get(nothing)

    def undo() -> None:
        # A context variable can be emptied only with the token of the call that set it. So None
        # stands for no value.
        if value.get(nothing) is not before:
            value.set(None if before is nothing else before)

    return undo


def _of_cache(value: Any) -> Callable[[], None]:
    """Return a function that clears a cache of `functools` if it has new entries."""
    before = value.cache_info()
    return lambda: value.cache_clear() if value.cache_info().misses != before.misses else None


def _of_state(
    value: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], Any]
) -> Callable[[], None]:
    """Return a function that restores the state of an object, given how to read and write it."""
    before = read(value)
    return lambda: write(value, before)


def _of_memory(value: Any) -> Callable[[], None]:
    """Return a function that restores the bytes of an array of C or of a memory map."""
    before = bytes(memoryview(value).cast("B"))

    def undo() -> None:
        memory = memoryview(value).cast("B")
        if bytes(memory) != before:
            memory[:] = before

    return undo


def _of_stream(stream: Any) -> Callable[[], None]:
    """Return a function that restores the content and position of a stream in memory."""
    before, position = stream.getvalue(), stream.tell()

    def undo() -> None:
        if not stream.closed and stream.getvalue() != before:
            stream.seek(0)
            stream.truncate()
            stream.write(before)
            stream.seek(position)

    return undo


def _of_slots(value: Any) -> Iterator[Callable[[], None]]:
    """Yield functions that restore the attributes that an object holds in slots."""
    for kind in type(value).__mro__:
        if not comes_installed(kind):
            for name, slot in list(vars(kind).items()):
                if isinstance(slot, MemberDescriptorType):
                    yield _of_slot(value, name, slot)


def _of_slot(value: Any, name: str, slot: Any) -> Callable[[], None]:
    """Return a function that restores one attribute in a slot."""
    nothing = object()

    def read() -> Any:
        try:
            return slot.__get__(value)
        except AttributeError:
            return nothing

    before = read()

    def undo() -> None:
        if read() is not before:
            slot.__delete__(value) if before is nothing else slot.__set__(value, before)

    return undo


__all__ = ["restored"]
