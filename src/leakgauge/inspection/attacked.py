"""Up to which batch an attack of LeakGauge reads each layer. The algebra can determine more.

`shift_consistency` begins where its own counting before the search allows it (see `beginnings.py`). From there
it goes down through ReLU, BatchNorm, additions and max pools. It stops at the first layer that it cannot read,
or passes over it if it began at a layer alone. `rgap` and `peeling`, which read one example through a chain of
layers, are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from leakgauge.analytic.convolutions.counting import MANY, Reader
from leakgauge.analytic.convolutions.joint_descent import LARGEST
from leakgauge.analytic.convolutions.operations import INVERTIBLE, RECTIFIERS, name_of, root_of
from leakgauge.inspection.counted import Counted
from leakgauge.inspection.layers import Layer
from leakgauge.inspection.reach import Reach, rows_of

FIRST = frozenset(("linear_layer", "spear", "cocktail_party"))
"""Attacks that read the first layer alone."""
ANYWHERE = frozenset(("april", "softmax_unmixing", "token_bag"))
"""Attacks that read a layer wherever it stands."""


def read_batches(counts: Counted) -> dict[fx.Node, int]:
    """Return the largest batch of a client that an attack reads, for each layer by its node."""
    reached, tested = _descended(counts), _tested(counts)
    found = {}
    for layer in counts.layers:
        alone = counts.owns[layer.node]
        direct = alone.attack in ANYWHERE
        direct |= alone.attack in FIRST and counts.place[layer.node].first
        batch = max(reached[layer.node], alone.batch if direct else 0)
        if alone.attack == "dager":
            # Once the sentences are read, the inputs of all layers are known.
            batch = max(batch, min(alone.batch, tested))
        found[layer.node] = min(counts.batch(layer), counts.shared(batch))
    return found


def _tested(counts: Counted) -> int:
    """Return the largest batch that `dager` reads. It tests tokens at the layers that see each token alone."""
    linear = [layer for layer in counts.layers if layer.kind == "linear"]
    places = {node: i for i, node in enumerate(counts.network.graph.nodes)}
    source = min((layer.source for layer in linear), key=places.__getitem__, default=None)
    first = [counts.owns[layer.node] for layer in linear if layer.source is source]
    return max((own.batch for own in first if own.attack == "dager"), default=0)


def _descended(counts: Counted) -> dict[fx.Node, int]:
    """Return the largest batch that `shift_consistency` reads, for each layer by its node."""
    begins, alone = _beginnings(counts), _alone(counts)
    masks, sent = counts.told()

    def spread(
        kind: type[Descended], at: Mapping[fx.Node, int], last: Mapping[fx.Node, int]
    ) -> Reach:
        own = {layer.node: at.get(layer.node, 0) for layer in counts.layers}
        once = counts.steps == 1
        return kind(
            counts.network, counts.layers, own, once, 0, counts.pools, last and masks, last and sent
        ).spread()

    found = _in_order(counts, spread(Descended, begins, sent))
    if alone:
        # It begins at a layer alone if no span and no block is wide enough for the batch.
        plain = [n for node, n in begins.items() if not counts.owns[node].masked]
        joint = spread(Jointly, alone, {})
        for layer in counts.layers:
            batch = joint.values[layer.source]
            if batch > max(plain, default=0):
                found[layer.node] = max(found[layer.node], batch)
    return found


class Descended(Reach):
    """The reach of `shift_consistency`, which knows fewer rules."""

    def _backward(self, node: fx.Node) -> None:
        """Compute the values of a node's inputs from its own. No activation is inverted."""
        if name_of(node) not in INVERTIBLE:
            super()._backward(node)

    def _derivative(self, node: fx.Node, user: fx.Node) -> int:
        """Return the largest batch at which a derivative is known. A ReLU alone needs no more than its output."""
        if name_of(user) in (RECTIFIERS | INVERTIBLE) - {"relu"}:
            return self.values[node]
        return super()._derivative(node, user)

    def _from_input(self, layer: Layer, reader: Reader) -> int:
        """Return the batch of the signal. Parts of a concatenation tell none."""
        return rows_of(reader, reader.channels, self.values[layer.source])

    def _layer(self, layer: Layer) -> None:
        """Compute the input from the signal. The last layer alone gives a signal from its input."""
        reader = layer.reader
        if reader is None or not layer.trained or layer.calls > 1 or reader.groups > 1:
            return
        if layer.kind == "linear" and root_of(self.network.end) is not layer.node:
            return
        super()._layer(layer)


class Jointly(Descended):
    """The reach of `shift_consistency` from a layer that it reads alone. Layers that cannot be read are passed over."""

    def _from_input(self, layer: Layer, reader: Reader) -> int:
        """Return the batch of the signal, of limited size. With groups, it is known where the attack begins."""
        if reader.groups > 1:
            return self.own[layer.node]
        batch = Reach._from_input(self, layer, reader)
        return max(self.own[layer.node], min(batch, LARGEST // reader.positions))

    def _layer(self, layer: Layer) -> None:
        """Compute the input from the signal, group by group if there are groups."""
        if layer.reader is None or layer.reader.groups == 1:
            super()._layer(layer)
        elif layer.trained and layer.calls == 1:
            Reach._layer(self, layer)


def _in_order(counts: Counted, reach: Reach) -> dict[fx.Node, int]:
    """Return the batch of each layer's input. A convolution that is not read ends the descent at its batch."""
    places = {node: i for i, node in enumerate(counts.network.graph.nodes)}
    found, least = {}, MANY
    for layer in sorted(counts.layers, key=lambda layer: -places[layer.source]):
        batch = reach.values[layer.source]
        if layer.kind == "convolution" and layer.trained:
            least = min(least, batch)
        found[layer.node] = min(least, batch)
    return found


def _beginnings(counts: Counted) -> dict[fx.Node, int]:
    """Return the largest batch at which a descent through all layers begins at a convolution, by its node."""
    if counts.outline is None or counts.steps > 1:
        return {}
    found: dict[fx.Node, int] = {}
    layers = {layer.node: layer for layer in counts.layers if layer.kind == "convolution"}
    blocks = [(block.layer.node, most) for block, most in counts.planned.blocks]
    for node, most in (*counts.planned.spans.items(), *blocks):
        layer = layers.get(node)
        if layer is None or layer.reader is None:
            continue
        if layer.reader.signal < layer.reader.positions and not layer.reader.shared:
            continue  # The row space does not hold all patches.
        # Columns tell no span of a layer that all values go through.
        batch = min(most, counts.owns[node].batch, layer.reader.span())
        found[node] = max(found.get(node, 0), batch)
    for node in layers:
        if counts.owns[node].masked:
            found[node] = max(found.get(node, 0), counts.owns[node].batch)
    return found


def _alone(counts: Counted) -> dict[fx.Node, int]:
    """Return the largest batch at which the attack begins at a layer alone, by its node. It begins at the earliest."""
    found: dict[fx.Node, int] = {}
    if counts.outline is None or counts.steps > 1:
        return found
    for node, most in counts.planned.alone.items():
        batch = 0 if counts.owns[node].masked else min(most, counts.owns[node].batch)
        if batch > max(found.values(), default=0):
            found[node] = batch
    return found
