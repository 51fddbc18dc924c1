"""How far known inputs and known signals reach through a network, as the largest batch for each node.

Five rules raise the batch of a node, and each takes the least batch of what it needs:

- A layer's own gradient determines its input (see `own.py`).
- Values follow forward through all operations, and backward through invertible ones.
- Signals follow backward. A rectifier needs its output, a pool or a normalization its input.
- A max pool with a known output and signal determines the input of the convolution in front (see `pools.py`).
- A layer with a known signal determines its input by `counting.solved`. A layer with a known input
  determines its signal, if the batch has fewer positions than the patches have numbers. Known channels of a
  concatenation do, too.

References: Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from leakgauge.analytic.convolutions.counting import MANY, Reader, solved
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import (
    ARITHMETIC,
    INVERTIBLE,
    LINEAR,
    RANDOM,
    RECTIFIERS,
    VIEWS,
    activation_after,
    batch_norm_of,
    is_affine,
    name_of,
    root_of,
    trains,
)
from leakgauge.inspection.layers import Layer
from leakgauge.inspection.parts import channels_by_batch
from leakgauge.inspection.pools import Pool

SWEEPS = 200
"""Most passes over the graph. Each pass carries values and signals through many layers."""
POSITIVE = 0.5
"""Fraction of a rectifier's outputs that count as known values of its input."""


@dataclass
class Reach:
    """The largest batch up to which each node's values and signals are known.

    Args:
        network: The traced network.
        layers: Its layers.
        own: Largest batch whose input the layer's own gradient determines, by the layer's node.
        chained: Whether rules carry what is known to other layers. Local steps forbid it, since the
            weights in between are unknown.
        entry: Largest batch whose examples are known from the start.
        pools: Max pools by the node of the convolution in front.
        masks: Largest batch in which the derivative of a rectifier is known from the start.
        sent: Largest batch in which the signal at a node is known from the start.
    """

    network: Network
    layers: Sequence[Layer]
    own: Mapping[fx.Node, int]
    chained: bool = True
    entry: int = 0
    pools: Mapping[fx.Node, Pool] = field(default_factory=dict)
    masks: Mapping[fx.Node, int] = field(default_factory=dict)
    sent: Mapping[fx.Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the nodes that do not depend on the input, and the layers that read each node."""
        nodes = list(self.network.graph.nodes)
        self.nodes = [node for node in nodes if node.op not in ("output",)]
        self.fixed = {node for node in nodes if node.op == "placeholder"} - {self.network.entry}
        for node in nodes:
            if node.op == "call_function" and all(n in self.fixed for n in node.all_input_nodes):
                self.fixed.add(node)
        self.values = {node: MANY if node in self.fixed else 0 for node in self.nodes}
        self.values[self.network.entry] = self.entry
        self.signals = dict.fromkeys(self.nodes, 0) | dict(self.sent)
        self.at = {layer.node: layer for layer in self.layers}
        self.readers: dict[fx.Node, list[Layer]] = {}
        for layer in self.layers:
            if layer.trained and layer.calls == 1 and layer.reader is not None:
                self.readers.setdefault(root_of(layer.source), []).append(layer)
        self.solvable: dict[tuple[tuple[fx.Node, ...], float], int] = {}

    def spread(self) -> Reach:
        """Apply all rules until nothing changes, and return the object itself."""
        for layer in self.layers:
            if layer.trained:
                self._raise(self.values, layer.source, self.own[layer.node])
        for _ in range(SWEEPS if self.chained else 0):
            self.changed = False
            for node in self.nodes:
                self._forward(node)
            for node in reversed(self.nodes):
                self._signal(node)
                self._backward(node)
                if node in self.at:
                    self._layer(self.at[node])
            if not self.changed:
                break
        return self

    def _raise(self, known: dict[fx.Node, int], node: fx.Node, batch: int) -> None:
        """Raise the batch of a node."""
        if batch > known[node]:
            known[node] = batch
            self.changed = True

    def _forward(self, node: fx.Node) -> None:
        """Compute a node's values from those of its inputs."""
        if node.op == "call_function" and name_of(node) not in RANDOM:
            inputs = node.all_input_nodes
            self._raise(self.values, node, min((self.values[n] for n in inputs), default=MANY))

    def _backward(self, node: fx.Node) -> None:
        """Compute the values of a node's inputs from its own."""
        if node.op != "call_function":
            return
        name, inputs = name_of(node), [n for n in node.all_input_nodes if n not in self.fixed]
        bare = name == "native_batch_norm" and not trains(node)
        if is_affine(node, self.fixed) or name in INVERTIBLE or name == "cat" or bare:
            for each in inputs:
                self._raise(self.values, each, self.values[node])
        elif name in ("add", "sub") and len(inputs) == 2:
            for each, other in (inputs, inputs[::-1]):
                batch = min(self.values[node], self.values[other])
                self._raise(self.values, each, batch)

    def _signal(self, node: fx.Node) -> None:
        """Compute a node's signal from those of its users."""
        if node in self.fixed or not node.users:
            return
        users = [user for user in node.users if user.op == "call_function"]
        if len(users) == len(node.users):
            parts = (min(self.signals[user], self._derivative(node, user)) for user in users)
            self._raise(self.signals, node, min(parts))

    def _derivative(self, node: fx.Node, user: fx.Node) -> int:
        """Return the largest batch at which the derivative of an operation by one input is known."""
        name, layer, norm = name_of(user), self.at.get(user), batch_norm_of(user)
        if layer is not None and layer.source is node:
            return MANY
        if name in VIEWS or name in LINEAR or (norm is not None and not trains(norm)):
            return MANY
        if name in RECTIFIERS or name in INVERTIBLE:
            return max(self.values[user], self.values[node], self.masks.get(user, 0))
        others = [n for n in user.all_input_nodes if n not in self.fixed]
        if name in ARITHMETIC:
            others = [n for n in others if n is not node]
        return min((self.values[n] for n in others), default=MANY)

    def _layer(self, layer: Layer) -> None:
        """Compute a layer's signal from its input, and its input from the signals of all that read it."""
        reader = layer.reader
        if reader is None or not layer.trained or layer.calls > 1:
            return
        self._raise(self.signals, layer.node, self._from_input(layer, reader))
        pool = self.pools.get(layer.node)
        if pool is not None:
            known = max(min(self.values[n], self.signals[n]) for n in pool.outputs)
            if known > self.values[layer.source]:
                self._raise(self.values, layer.source, min(known, pool.most(reader)))
        group = [
            other
            for other in self.readers[root_of(layer.source)]
            if other.reader is not None and other.reader.geometry.places == reader.geometry.places
        ]
        for least in {self.signals[other.node] for other in group} - {0}:
            chosen = [other for other in group if self.signals[other.node] >= least]
            self._solve(chosen, least)

    def _from_input(self, layer: Layer, reader: Reader) -> int:
        """Return the largest batch in which the known channels of a layer's input tell the signal at its output."""
        given = [(reader.channels, self.values[layer.source])]
        if reader.groups == 1 and layer.kind == "convolution":
            given += channels_by_batch(layer.source, self.values, self.fixed)
        return max(rows_of(reader, channels, batch) for channels, batch in given)

    def _solve(self, chosen: list[Layer], batch: int) -> None:
        """Raise the batch of the input that layers with known signals share."""
        known = 0.0
        for layer in chosen:
            assert layer.reader is not None
            outputs = layer.reader.outputs * layer.reader.positions
            rectifier = activation_after(layer.node, self.fixed)
            if self.values[layer.node] >= batch:
                known += outputs
            elif rectifier is not None and self.values[rectifier] >= batch:
                known += POSITIVE * outputs
        key = (tuple(layer.node for layer in chosen), known)
        if key not in self.solvable:
            readers = [layer.reader for layer in chosen if layer.reader is not None]
            self.solvable[key] = solved(readers, known)
        for layer in chosen:
            self._raise(self.values, layer.source, min(batch, self.solvable[key]))


def rows_of(reader: Reader, channels: int, batch: int) -> int:
    """Return the largest batch in which known channels of a layer's input have independent patches.

    Args:
        reader: The layer.
        channels: Number of known channels.
        batch: Largest batch in which they are known.
    """
    width = channels // reader.groups * reader.geometry.taps
    rows = (width - 1) // max(1, reader.positions) if width > reader.positions else 0
    return min(batch, rows)
