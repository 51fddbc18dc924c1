"""Up to which batch an attack of LeakGauge reads each layer. The algebra can determine more.

`shift_consistency` begins at a convolution's span, or at the masks of a pooled head. From there it goes down
through ReLU, BatchNorm and additions. It stops at the first layer that it cannot read. `rgap` and
`peeling`, which read one example through a chain of layers, are not counted.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from leakgauge.analytic.convolutions.counting import MANY
from leakgauge.analytic.convolutions.operations import INVERTIBLE, RECTIFIERS, name_of, root_of
from leakgauge.inspection.counted import Counted
from leakgauge.inspection.layers import Layer
from leakgauge.inspection.reach import Reach

FIRST = frozenset(("linear_layer", "spear", "cocktail_party"))
"""Attacks that read the first layer alone."""
ANYWHERE = frozenset(("april", "softmax_unmixing"))
"""Attacks that read a layer wherever it stands."""


def read_batches(counts: Counted) -> dict[fx.Node, int]:
    """Return the largest batch of a client that an attack reads, for each layer by its node."""
    begins = _beginnings(counts)
    own = {layer.node: begins.get(layer.node, 0) for layer in counts.layers}
    reach = Descended(counts.network, counts.layers, own, counts.steps == 1).spread()
    reached = _in_order(counts, reach)
    found = {}
    for layer in counts.layers:
        alone = counts.owns[layer.node]
        direct = alone.attack in ANYWHERE
        direct |= alone.attack in FIRST and counts.place[layer.node].first
        batch = max(reached[layer.node], alone.batch if direct else 0)
        found[layer.node] = min(counts.batch(layer), counts.shared(batch))
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

    def _layer(self, layer: Layer) -> None:
        """Compute the input from the signal. The last layer alone gives a signal from its input."""
        reader = layer.reader
        if reader is None or not layer.trained or layer.calls > 1 or reader.groups > 1:
            return
        if layer.kind == "linear" and root_of(self.network.end) is not layer.node:
            return
        super()._layer(layer)


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
    """Return the largest batch at which the attack begins at a convolution, by its node."""
    outline = counts.outline
    if outline is None or counts.steps > 1:
        return {}
    convolutions = {layer.name: layer for layer in counts.layers if layer.kind == "convolution"}
    found: dict[fx.Node, int] = {}
    refused = [dict(replace(outline, count=n).candidates()) for n in (1, 2)]
    for convolution, reason in refused[0].items():
        layer = convolutions.get(convolution.name.removesuffix(".weight"))
        if reason is not None or layer is None or layer.reader is None:
            continue
        if layer.reader.signal < layer.reader.positions and not layer.reader.shared:
            continue  # The row space does not hold all patches.
        batch = counts.owns[layer.node].batch
        found[layer.node] = batch if refused[1][convolution] is None else min(1, batch)
    for layer in convolutions.values():
        if counts.owns[layer.node].masked:
            found[layer.node] = max(found.get(layer.node, 0), counts.owns[layer.node].batch)
    return found
