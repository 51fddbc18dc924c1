"""Runs of a user's code that leave no trace in the model, the loss or the local training.

A forward may count its calls, keep its input or write to a buffer. Then each call starts from a
different state, and the adversary's simulation differs from the client's training.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from leakgauge.core import Loss
from leakgauge.federated.isolation.probing import probing

_ATOMS = frozenset({bool, int, float, str, tuple, type(None), FunctionType, nn.Parameter})
_MAPPINGS = frozenset({dict, OrderedDict, defaultdict, Counter})
_SEQUENCES = frozenset({list, deque})
_CONTAINERS = _MAPPINGS | _SEQUENCES | {set}


@contextmanager
def untouched(*objects: object) -> Iterator[None]:
    """Undo on exit what the code inside changes in modules, functions and objects, also after an exception.

    Attributes, buffers, hooks and closure variables are restored. So is the content of lists, sets and
    dictionaries in an attribute or a closure variable. Buffers and plain tensors are cloned, so that
    the code writes to copies. Parameters are not copied.
    """
    state = _State()
    for each in objects:
        state.take(each)
    try:
        yield
    finally:
        state.restore()


def output_of(model: nn.Module, inputs: Tensor) -> Any:
    """Return the output of `model` for inputs `(B, *shape)`, and leave no trace in the model or the inputs.

    Raises:
        ProbeError: The model fails on these inputs.
    """
    with probing(), untouched(model):
        return model(inputs.clone())


def value_of(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """Return the value of `loss`, and leave no trace in the loss."""
    with untouched(loss):
        return loss(output, targets)


class _State:
    """A snapshot of objects: shallow copies of their attributes, and clones in place of their tensors.

    Each simulated gradient takes one snapshot, so the loops here are written for speed.
    """

    def __init__(self) -> None:
        self.attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.filled: list[tuple[Any, Any]] = []
        self.empty: list[Any] = []
        self.cells: list[tuple[CellType, Any]] = []
        self.clones: dict[int, Tensor] = {}
        self.seen: set[int] = set()

    def take(self, owner: object) -> None:
        """Remember everything that `owner` may change."""
        if isinstance(owner, nn.Module):
            self._take_modules(owner)
        elif isinstance(owner, functools.partial):
            self.take(owner.func)
        elif isinstance(owner, MethodType):
            self.take(owner.__self__)
            self.take(owner.__func__)
        elif id(owner) not in self.seen:
            self.seen.add(id(owner))
            if isinstance(owner, FunctionType):
                for cell in owner.__closure__ or ():
                    self._take_cell(cell)
            attributes = getattr(owner, "__dict__", None)
            if isinstance(attributes, dict):
                for value in attributes.values():
                    if isinstance(value, nn.Module):
                        self._take_modules(value)
                self._take_attributes(attributes)

    def _take_modules(self, root: nn.Module) -> None:
        """Remember the attributes of a module and of all modules in it."""
        left = [root]
        for module in left:
            if id(module) not in self.seen:
                self.seen.add(id(module))
                attributes = module.__dict__
                left += [m for m in attributes["_modules"].values() if m is not None]
                self._take_attributes(attributes)

    def _take_attributes(self, attributes: dict[str, Any]) -> None:
        """Remember the attributes of one object, and put clones in place of its tensors."""
        before = attributes.copy()
        self.attributes.append((attributes, before))
        empty = self.empty
        for name, value in before.items():
            kind = type(value)
            if kind in _CONTAINERS:
                if value:
                    self._take_filled(value)
                else:
                    empty.append(value)
            elif kind not in _ATOMS and isinstance(value, Tensor):
                attributes[name] = self._clone(value)

    def _take_cell(self, cell: CellType) -> None:
        """Remember a closure variable, and put a clone in place of its tensor."""
        try:
            value = cell.cell_contents
        except ValueError:  # The variable has no value yet.
            return
        self.cells.append((cell, value))
        if isinstance(value, nn.Module):
            self._take_modules(value)
        elif type(value) in _CONTAINERS:
            if value:
                self._take_filled(value)
            else:
                self.empty.append(value)
        elif isinstance(value, Tensor):
            cell.cell_contents = self._clone(value)

    def _take_filled(self, container: Any) -> None:
        """Remember the content of a container, and put clones in place of its tensors."""
        if id(container) in self.seen:
            return
        self.seen.add(id(container))
        self.filled.append((container, container.copy()))
        if type(container) in _MAPPINGS:
            for key, value in container.items():
                if type(value) not in _ATOMS and isinstance(value, Tensor):
                    container[key] = self._clone(value)
        elif type(container) in _SEQUENCES:
            for i, value in enumerate(container):
                if type(value) not in _ATOMS and isinstance(value, Tensor):
                    container[i] = self._clone(value)

    def _clone(self, tensor: Tensor) -> Tensor:
        """Return the one clone of a tensor, which the code may write to. Parameters are returned unchanged."""
        # The exact type is checked first, because isinstance() of a Parameter runs Python code.
        if type(tensor) is not Tensor and (isinstance(tensor, nn.Parameter) or is_lazy(tensor)):
            return tensor
        found = self.clones.get(id(tensor))
        if found is None:
            found = self.clones[id(tensor)] = tensor.clone()
        return found

    def restore(self) -> None:
        """Restore all objects."""
        for attributes, held in self.attributes:
            same = attributes.keys() == held.keys()
            if not same or not all(map(is_, attributes.values(), held.values())):
                attributes.clear()
                attributes.update(held)
        for container in filter(None, self.empty):
            container.clear()
        for container, before in self.filled:
            container.clear()
            if type(container) in _SEQUENCES:
                container.extend(before)
            else:
                container.update(before)
        for cell, value in self.cells:
            cell.cell_contents = value


__all__ = ["output_of", "untouched", "value_of"]
