"""Graphs: a pure function of tensors, as the list of its operators, without repeats.

Autograd repeats work when it differentiates twice: it computes one in seven convolutions of a
second derivative twice. A graph shows the repeats. It also frees each tensor after its last use.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

Flat = Callable[..., tuple[Tensor, ...]]
"""A function of tensors that returns tensors."""

_ATEN = torch.ops.aten
_VIEWS = (_ATEN.view.default, _ATEN._unsafe_view.default)
_ALIASES = (_ATEN.alias.default, _ATEN.detach.default)


@dataclass(frozen=True)
class Graph:
    """A function as a graph: `module(*constants, *arguments)`. It refers to no other tensor.

    Args:
        module: The graph. Functions that differ only in their constants may share it.
        constants: The tensors that the function closed over, such as parameters and the observed
            update, by reference.
    """

    module: fx.GraphModule
    constants: tuple[Tensor, ...]

    @property
    def key(self) -> str:
        """Everything that the module computes: operators with all numbers, and shapes, strides and types of inputs."""
        inputs = [_layout(n.meta["val"]) for n in self.module.graph.nodes if n.op == "placeholder"]
        return "\n".join([*inputs, self.module.code])

    @property
    def draws(self) -> bool:
        """Whether the graph draws random numbers."""
        return any(_random(node) for node in self.module.graph.nodes)


def trace(function: Flat, *arguments: Tensor) -> Graph:
    """Return the graph of a function for arguments of these shapes.

    The function runs once, on tensors that have shapes and types but no values. If its Python code
    reads a value, for example to choose a branch, RuntimeError is raised. So the graph never keeps
    a branch that other values would not take.

    Args:
        function: A function of tensors.
        arguments: Tensors of the right shapes and types.
    """
    pure = functionalize(function, remove="mutations")
    # Tensors that the function closes over are real, and become constants below.
    traced = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
    graph = traced.graph
    constants = _lift(traced)
    _drop_aliases(graph)
    _free_layouts(graph)
    _drop_repeats(graph)
    _merge_convolutions(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return Graph(fx.GraphModule(torch.nn.Module(), graph), constants)


def _lift(traced: fx.GraphModule) -> tuple[Tensor, ...]:
    """Turn the tensors that the graph refers to into its first inputs, and return them."""
    found: dict[str, tuple[Tensor, fx.Node]] = {}
    first = next(iter(traced.graph.nodes))
    for node in list(traced.graph.nodes):
        if node.op != "get_attr":
            continue
        if node.target not in found:
            value = getattr(traced, node.target)
            if not isinstance(value, Tensor):
                raise RuntimeError(
                    f"it holds an object of type {type(value).__name__}, which is not a tensor"
                )
            with traced.graph.inserting_before(first):
                placeholder = traced.graph.placeholder(f"constant_{len(found)}")
            placeholder.meta["val"] = value
            found[node.target] = (value, placeholder)
        node.replace_all_uses_with(found[node.target][1])
        traced.graph.erase_node(node)
    return tuple(value for value, _ in found.values())


def _drop_aliases(graph: fx.Graph) -> None:
    """Replace other names of a tensor by the tensor. Nothing is changed in place, so this is safe."""
    for node in list(graph.nodes):
        if node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _free_layouts(graph: fx.Graph) -> None:
    """Let each view copy if it must: a convolution's output may have another layout than the trace expected."""
    for node in graph.nodes:
        if node.target in _VIEWS:
            node.target = _ATEN.reshape.default


def _drop_repeats(graph: fx.Graph) -> None:
    """Compute once the nodes that compute the same thing from the same tensors."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if not _repeatable(node):
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _repeatable(node: fx.Node) -> bool:
    """Return whether equal inputs give equal outputs, without other effects."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return not _random(node) and not node.target._schema.is_mutable


def _random(node: fx.Node) -> bool:
    """Return whether the node draws random numbers."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded in node.target.tags


def _frozen(value: Any) -> Any:
    """Return an argument as a key: nodes by identity, numbers by type and value."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    return value if isinstance(value, fx.Node) else (type(value), repr(value))


def _merge_convolutions(graph: fx.Graph) -> None:
    """Merge calls that compute one convolution's derivatives by input and by weight separately."""
    groups: dict[Any, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target is _ATEN.convolution_backward.default:
            groups.setdefault(_frozen(node.args[:-1]), []).append(node)
    for first, *others in groups.values():
        masks = [node.args[-1] for node in (first, *others)]
        first.args = (*first.args[:-1], [any(asked) for asked in zip(*masks, strict=True)])
        for node in others:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _layout(value: Tensor) -> str:
    """Return type, device, shape and strides of a tensor as text."""
    return f"{value.dtype} {value.device} {tuple(value.shape)} {value.stride()}"
