"""A network as a graph of elementary operations, traced from any module, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.operations import name_of, root_of, trains
from leakgauge.core import ProbeError
from leakgauge.federated.isolation.probing import doubled, probing, single
from leakgauge.federated.isolation.untouched import output_of

_VIEWS = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten.expand")


@dataclass(frozen=True, eq=False)
class Convolution:
    """One call of a convolution whose weight is a parameter of the model.

    Args:
        name: Name of the weight.
        node: The node of its output.
        source: The node of its input.
        weight: The weight `(O, C / groups, *kernel)`.
        geometry: The places that it reads.
        groups: Number of groups.
        channels: Number of input channels C.
        bias: The bias (O, 1, ...), or None.
    """

    name: str
    node: fx.Node
    source: fx.Node
    weight: Tensor
    geometry: Geometry
    groups: int
    channels: int
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a graph of elementary operations.

    Args:
        graph: The operations. Its placeholders are the state by name, then the input.
        state: Parameters and buffers in float64, by name.
        names: Name of the parameter or buffer of each placeholder.
        entry: The node of the input, in the domain's units.
        end: The node of the output.
        convolutions: The convolutions in the order of their calls.
        batch: Batch size of the trace. Sizes that begin with it stand for the batch size.
        softness: Width of the softplus that replaces each ReLU, in units of the root mean square of its
            input. 0 for ReLUs.
    """

    graph: fx.Graph
    state: dict[str, Tensor]
    names: dict[fx.Node, str]
    entry: fx.Node
    end: fx.Node
    convolutions: tuple[Convolution, ...]
    batch: int
    softness: float = 0.0

    def evaluate(
        self,
        wanted: Iterable[fx.Node],
        given: Mapping[fx.Node, Tensor],
        state: Mapping[str, Tensor] | None = None,
    ) -> dict[fx.Node, Tensor]:
        """Return the values of nodes, computed from the given values of other nodes.

        Args:
            wanted: Nodes to compute.
            given: Values `(B, ...)` of nodes that cut the wanted ones off from the input.
            state: Values that replace parameters of the same name.
        """
        wanted = tuple(wanted)
        needed = self.between(wanted, given)
        values: dict[fx.Node, Any] = dict(given)
        count = next((len(value) for value in given.values()), self.batch)
        state = self.state if state is None else {**self.state, **state}
        for node in self.graph.nodes:
            if node not in needed or node in values:
                continue
            if node in self.names:
                values[node] = state[self.names[node]]
            else:
                values[node] = self.call(node, values, count)
        return {node: values[node] for node in wanted}

    def between(self, wanted: Iterable[fx.Node], given: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that are needed for the wanted ones if others are given.

        Raises:
            ValueError: The input is needed, and is not given.
        """
        stop, needed, open_ = set(given), set[fx.Node](), list(wanted)
        while open_:
            node = open_.pop()
            if node in needed or node in stop:
                continue
            if node is self.entry:
                raise ValueError("expected nodes that cut the wanted ones off from the input")
            needed.add(node)
            open_.extend((*node.all_input_nodes, *self.writes.get(node, ())))
        return needed

    @cached_property
    def writes(self) -> dict[fx.Node, list[fx.Node]]:
        """The operations that wrote into an operation's inputs before it, such as those of circular padding."""
        written: dict[fx.Node, list[fx.Node]] = {}
        found = {}
        for node in self.graph.nodes:
            roots = {root_of(source, also=("slice", "select")) for source in node.all_input_nodes}
            found[node] = [each for root in roots for each in written.get(root, ())]
            if getattr(node.target, "_schema", None) and node.target._schema.is_mutable:
                root = root_of(node.all_input_nodes[0], also=("slice", "select"))
                written.setdefault(root, []).append(node)
        return {node: earlier for node, earlier in found.items() if earlier}

    def computes(self, model: nn.Module, inputs: Tensor, *, together: bool = False) -> bool:
        """Return whether the graph gives the model's output for inputs `(B, *shape)` in float64, each on its own.

        It does not if the model merges the batch with other axes, or mixes the examples of a batch.
        With `together`, the model takes the inputs as one batch, and may mix them.
        """
        twin = doubled(model)
        try:
            with probing(), torch.no_grad():
                found = self.evaluate([self.end], {self.entry: inputs})[self.end]
                parts = [inputs] if together else torch.split(inputs, 1)
                alone = torch.cat([single(output_of(twin, x)) for x in parts])
        except ProbeError:
            return False
        return found.shape == alone.shape and torch.allclose(found, alone)

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Return the operations that use a node, and on which the output depends."""
        return [user for user in node.users if user in self.used]

    @cached_property
    def used(self) -> set[fx.Node]:
        """The nodes on which the output depends, and the output."""
        reached, open_ = set[fx.Node](), [self.end]
        while open_:
            node = open_.pop()
            if node not in reached:
                reached.add(node)
                open_.extend(node.all_input_nodes)
        return reached

    @cached_property
    def varying(self) -> set[fx.Node]:
        """The nodes that depend on the input, and the input."""
        reached = {self.entry}
        for node in self.graph.nodes:
            if any(source in reached for source in node.all_input_nodes):
                reached.add(node)
        return reached

    def cuts_off(self, nodes: Iterable[fx.Node]) -> bool:
        """Return whether the output depends on the input through these nodes alone."""
        try:
            self.between([self.end], nodes)
        except ValueError:
            return False
        return True

    def call(
        self,
        node: fx.Node,
        values: Mapping[fx.Node, Any],
        count: int,
        replaced: Mapping[int, Any] | None = None,
    ) -> Any:
        """Return the value of an operation. The batch size of the trace becomes `count` in sizes.

        Args:
            node: The operation.
            values: The values of its inputs.
            count: Batch size.
            replaced: Arguments that take the place of others, by their positions.
        """
        given = cast(tuple[Any, ...], fx.node.map_arg(node.args, lambda n: values[n]))
        replaced = replaced or {}
        arguments = tuple(replaced.get(i, argument) for i, argument in enumerate(given))
        keywords = cast(dict[str, Any], fx.node.map_arg(node.kwargs, lambda n: values[n]))
        assert callable(node.target), f"expected an operation; found {node.op}"
        if self.softness and name_of(node) == "relu":
            return softened(arguments[0], self.softness)
        if str(node.target).startswith(_VIEWS):
            size = list(arguments[1])
            if size and size[0] == self.batch and -1 not in size[1:]:
                size[0] = count if "expand" in str(node.target) else -1
            arguments = (arguments[0], size, *arguments[2:])
        elif str(node.target).startswith("aten.new_"):
            # A buffer has the batch size and the type of the trace.
            keywords = {**keywords, "dtype": arguments[0].dtype}
            if arguments[1][:1] == [self.batch]:
                arguments = (arguments[0], [count, *arguments[1][1:]], *arguments[2:])
        elif "group_norm" in str(node.target):
            # The operation takes the batch size as a number.
            arguments = (*arguments[:3], count, *arguments[4:])
        elif "batch_norm" in str(node.target) and not trains(node):
            # Its derivatives of second order are several times slower than those of two products.
            return (affine_norm(*arguments),)
        elif "batch_norm" in str(node.target):
            # The operation would change running statistics in place.
            kept = (None if a is None else a.clone() for a in arguments[3:5])
            arguments = (*arguments[:3], *kept, *arguments[5:])
        return node.target(*arguments, **keywords)


def softened(inputs: Tensor, softness: float) -> Tensor:
    """Return the softplus of inputs `(B, ...)`, of a width relative to the root mean square of each example."""
    size = inputs.square().flatten(1).mean(1).clamp_min(torch.finfo(inputs.dtype).tiny).sqrt()
    width = (softness * size).reshape(-1, *[1] * (inputs.ndim - 1))
    return width * nn.functional.softplus(inputs / width)


def affine_norm(inputs: Tensor, *arguments: Any) -> Tensor:
    """Return the output of a BatchNorm with running statistics, given the operation's arguments."""
    factor, shift = factor_and_shift(*arguments)
    shape = (-1, *[1] * (inputs.ndim - 2))
    return inputs * factor.reshape(shape) + shift.reshape(shape)


def factor_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Return the factor and the shift (C,) of a BatchNorm with running statistics."""
    # Some variants of the operation say whether they train in front of the momentum and of eps.
    eps = rest[2] if rest[0] is False else rest[-1]
    factor = (variance + eps).rsqrt()
    if weight is not None:
        factor = factor * weight
    shift = -mean * factor
    return factor, shift if bias is None else shift + bias


def arguments_of(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments of an operation, of any types."""
    return cast(tuple[Any, ...], node.args)
