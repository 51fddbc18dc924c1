"""The derivative of a network's nodes along a direction of its input.

Automatic differentiation runs each convolution again for this, some of them twice. Here a direction
passes through the graph once: convolutions without their bias, ReLUs as masks.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network, arguments_of, factor_and_shift
from leakgauge.analytic.convolutions.operations import MEANS, name_of
from leakgauge.analytic.convolutions.propagation import INDEXING, is_relu, is_steady_norm

HOMOGENEOUS = INDEXING | MEANS | {"expand", "sum"}
"""Operations that are linear in their only input that varies."""


@dataclass(frozen=True, eq=False)
class Tangents:
    """Derivatives of nodes at one input.

    Args:
        network: The network.
        wanted: The nodes.
        inputs: The input `(B, *shape)` of the network.
        state: Parameters and buffers in the type of the input.
    """

    network: Network
    wanted: Sequence[fx.Node]
    inputs: Tensor
    state: Mapping[str, Tensor]

    @cached_property
    def path(self) -> list[fx.Node]:
        """The nodes that vary and that the wanted ones need, in order."""
        needed = self.network.between(self.wanted, [self.network.entry])
        return [n for n in self.network.graph.nodes if n in needed and n in self.network.varying]

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """The values of all nodes of the path, and of what they take."""
        also = {source for node in self.path for source in node.all_input_nodes}
        wanted = [n for n in self.network.graph.nodes if n in also or n in self.path]
        with torch.no_grad():
            return self.network.evaluate(wanted, {self.network.entry: self.inputs}, self.state)

    def __call__(self, direction: Tensor) -> dict[fx.Node, Tensor]:
        """Return the derivative `(B, ...)` of each wanted node along a direction `(B, *shape)` of the input."""
        along: dict[fx.Node, Any] = {self.network.entry: direction}
        with torch.no_grad():
            for node in self.path:
                if node not in along:
                    along[node] = self._through(node, along)
        return {node: along[node] for node in self.wanted}

    def _through(self, node: fx.Node, along: Mapping[fx.Node, Any]) -> Any:
        """Return the derivative of a node from those of its inputs."""
        name = name_of(node)
        moving = [source for source in node.all_input_nodes if source in self.network.varying]
        first = along[moving[0]]
        if is_relu(node):
            return first * (self.values[node] > 0)
        if is_steady_norm(node):
            fixed = (self.values.get(a, a) for a in arguments_of(node)[1:])
            factor, _ = factor_and_shift(*fixed)
            return (first * factor.reshape(-1, *[1] * (first.ndim - 2)),)
        if len(moving) == 1 and moving[0] is node.args[0]:
            if name == "convolution":
                # The third argument is the bias.
                return self._call(node, {moving[0]: first}, {2: None})
            if name == "getitem" or name in HOMOGENEOUS:
                return self._call(node, {moving[0]: first})
        if name == "add" and len(moving) == 2 and len(node.args) == 2 and not node.kwargs:
            return first + along[moving[1]]
        return self._differentiated(node, moving, along)

    def _differentiated(
        self, node: fx.Node, moving: Sequence[fx.Node], along: Mapping[fx.Node, Any]
    ) -> Any:
        """Return the derivative of any operation."""

        def called(*given: Tensor) -> Any:
            out = self._call(node, dict(zip(moving, given, strict=True)))
            # Further outputs, such as the places of a max pool, have no derivative.
            return out[0] if isinstance(out, tuple) else out

        here = tuple(self.values[source] for source in moving)
        found = torch.func.jvp(called, here, tuple(along[source] for source in moving))[1]
        return (found,) if isinstance(self.values[node], tuple) else found

    def _call(
        self,
        node: fx.Node,
        given: Mapping[fx.Node, Any],
        replaced: Mapping[int, Any] | None = None,
    ) -> Any:
        """Return the value of an operation at other values of some inputs, and with other arguments at some places."""
        values = {source: given.get(source, self.values[source]) for source in node.all_input_nodes}
        return self.network.call(node, values, len(self.inputs), replaced)
