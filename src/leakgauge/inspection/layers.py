"""The layers of a network whose weights have gradients, found in its graph of operations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx, nn

from leakgauge.analytic.convolutions.counting import Reader
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.layer_spans import exchanged
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import VIEWS, name_of
from leakgauge.analytic.convolutions.tracing import TRACED

Kind = Literal["convolution", "linear", "embedding", "other"]


@dataclass(frozen=True)
class Limits:
    """What a layer's signals, or its inputs, span in a batch.

    Args:
        alive: Mean numbers of channels that are not 0 in batches of 1 and more examples. With groups of
            channels, the least number of a group, times the number of groups.
        most: Largest batch in which they have full rank. None if they have in every batch that was measured.
    """

    alive: tuple[int, ...]
    most: int | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a layer with a weight.

    Args:
        name: Name of the layer: that of its weight, without ".weight".
        kind: What the layer does. "other" is not counted.
        node: The node of its output.
        source: The node of its input.
        reader: Its gradient as equations, or None for an embedding and for other layers.
        numbers: Numbers of its input, for one example.
        outputs: Number of outputs, or of output channels. 0 if not counted.
        parameters: Number of entries of the weight.
        trained: Whether the update holds the gradient of the weight.
        bias: Whether the update holds the gradient of a bias.
        calls: Number of calls that use the weight.
        inputs: What the inputs of a batch span. None if not measured.
    """

    name: str
    kind: Kind
    node: fx.Node
    source: fx.Node
    reader: Reader | None
    numbers: int
    outputs: int
    parameters: int
    trained: bool
    bias: bool
    calls: int = 1
    inputs: Limits | None = None

    def columns(self) -> Reader | None:
        """Return the equations of the gradient's columns, where inputs and signals change places, or None.

        They need as many input channels as places.
        """
        reader = self.reader
        if reader is None or reader.shared or self.kind != "convolution":
            return None
        if reader.channels // reader.groups < reader.geometry.places:
            return None
        if int(reader.geometry.reads.max()) == 1:  # Patches do not overlap.
            return None
        known = self.inputs or Limits((), None)
        return Reader(
            exchanged(reader.geometry),
            reader.outputs,
            reader.channels,
            reader.groups,
            copies=reader.copies,
            alive=known.alive,
            most=known.most,
        )


def layers_of(network: Network, model: nn.Module) -> tuple[Layer, ...]:
    """Return the layers of a traced model, in the order of their calls. Normalizations are left out."""
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in model.named_parameters()}
    found = []
    for node in network.graph.nodes:
        weight, source, bias = _operands(node, network.names)
        if weight is None or source is None or network.names[weight] not in parameters:
            continue
        name = network.names[weight]
        reader = _reader(node, source, weight, network)
        layer = Layer(
            name=name.removesuffix(".weight"),
            kind=_kind(node, reader),
            node=node,
            source=source,
            reader=reader,
            numbers=math.prod(source.meta["val"].shape) // TRACED,
            outputs=0 if reader is None else reader.outputs,
            parameters=network.state[name].numel(),
            trained=name in learned,
            bias=bias is not None and network.names[bias] in learned,
        )
        found.append(layer)
    calls = Counter(layer.name for layer in found)
    return tuple(replace(layer, calls=calls[layer.name]) for layer in found)


def _operands(
    node: fx.Node, names: Mapping[fx.Node, str]
) -> tuple[fx.Node | None, fx.Node | None, fx.Node | None]:
    """Return the placeholders of weight and bias, and the input of an operation with a weight."""
    operation, given = name_of(node), node.args
    if operation == "embedding":
        return _parameter(given[0], names), _node(given[1]), None
    if operation == "addmm":
        return _parameter(given[2], names), _node(given[1]), _parameter(given[0], names)
    if operation in ("convolution", "linear"):
        bias = given[2] if len(given) > 2 else None
        return _parameter(given[1], names), _node(given[0]), _parameter(bias, names)
    if operation in ("mm", "bmm", "matmul"):
        return _parameter(given[1], names), _node(given[0]), _bias_added(node, names)
    known = [_parameter(each, names) for each in node.all_input_nodes]
    heavy = [each for each in known if each is not None and each.meta["val"].dim() > 2]
    if "norm" in operation or operation in VIEWS or not heavy or len(node.all_input_nodes) < 2:
        return None, None, None
    if operation in ("add", "sub", "mul", "cat", "expand"):
        return None, None, None
    return heavy[0], node.all_input_nodes[0], None


def _node(value: object) -> fx.Node | None:
    """Return a node unchanged, and None for anything else."""
    return value if isinstance(value, fx.Node) else None


def _parameter(value: object, names: Mapping[fx.Node, str]) -> fx.Node | None:
    """Return the placeholder whose values an operand holds, or None if it is computed from the input."""
    while isinstance(value, fx.Node) and value not in names:
        if name_of(value) not in VIEWS:
            return None
        value = value.args[0]
    return value if isinstance(value, fx.Node) else None


def _bias_added(node: fx.Node, names: Mapping[fx.Node, str]) -> fx.Node | None:
    """Return the placeholder of a bias that is added to a product of matrices, or None if there is none."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if name_of(node) == "add":
            return next((p for p in (_parameter(a, names) for a in node.args) if p), None)
        if name_of(node) not in VIEWS:
            return None
    return None


def _kind(node: fx.Node, reader: Reader | None) -> Kind:
    """Return the kind of a layer."""
    operation = name_of(node)
    if operation == "embedding":
        return "embedding"
    if reader is None:
        return "other"
    return "convolution" if operation == "convolution" else "linear"


def _reader(node: fx.Node, source: fx.Node, weight: fx.Node, network: Network) -> Reader | None:
    """Return the equations of a layer's gradient, or None if they are not counted."""
    if name_of(node) == "convolution":
        own = next((c for c in network.convolutions if c.node is node), None)
        if own is None:
            return None
        return Reader(own.geometry, own.channels, own.weight.shape[0], own.groups)
    if name_of(node) not in ("addmm", "mm", "bmm", "linear", "matmul"):
        return None
    inputs, outputs = source.meta["val"].shape[-1], node.meta["val"].shape[-1]
    rows = math.prod(source.meta["val"].shape[:-1])
    if rows % TRACED:
        return None
    return Reader(geometry_of((rows // TRACED,), kernel=(1,)), inputs, outputs)
