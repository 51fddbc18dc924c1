"""What a descent through a network starts from: the gradients of a network, and what is known at its beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import BatchPropagation, mixes, norm_behind
from leakgauge.analytic.convolutions.counting import Reader
from leakgauge.analytic.convolutions.network import Convolution, Network
from leakgauge.analytic.convolutions.operations import name_of
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

LINEAR_LAYERS = frozenset(("addmm", "mm", "linear"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Outline:
    """What decides by counting whether a descent can begin.

    Args:
        network: The network.
        gradients: The gradients of the parameters by name, in float64, of the same mean loss as that
            of the head. For counting alone, any nonzero tensors.
        features: The node of the last layer's input.
        count: Batch size B.
    """

    network: Network
    gradients: Mapping[str, Tensor]
    features: fx.Node
    count: int

    def candidates(self) -> Iterator[tuple[Convolution, Inapplicable | None]]:
        """Yield the convolutions, the earliest first, each with the reason why its span tells nothing."""
        for layer in self.network.convolutions:
            if layer.name in self.gradients:
                yield layer, self._refusal(layer)

    def _refusal(self, layer: Convolution) -> Inapplicable | None:
        """Return why the span of a layer cannot start a descent, or None."""
        shared = int(norm_behind(self.network, layer.node) is not None)
        outputs = len(layer.weight)
        reader = Reader(layer.geometry, layer.channels, outputs, layer.groups, shared=shared)
        if layer.groups > 1:
            return Inapplicable(
                f"{layer.name}: it has {layer.groups} groups, and in a batch of {self.count} the inputs of one "
                "example's groups cannot be told from those of another"
                if self.count > 1
                else f"{layer.name}: it has {layer.groups} groups"
            )
        if reader.span() < self.count:
            reason = reader.reason() or f"its span holds {reader.span()} examples, not {self.count}"
            return Inapplicable(f"{layer.name}: {reason}")
        if not self.network.cuts_off([layer.source]):
            return Inapplicable(f"{layer.name}: a shortcut bypasses it")
        if self.count > 1 and not is_nonnegative(layer.source):
            return Inapplicable(
                f"{layer.name}: its input comes from {_kind_of(layer.source)!r}, not from a ReLU, whose zeros tell the "
                "examples of a batch apart"
            )
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Outline):
    """One gradient of a network with convolutions.

    Args:
        head: The last layer and its gradient.
        error: Relative rounding error of the update.
        unit: Factor from the shared gradients to these.
        beat: Called at least every few seconds of a search.
    """

    head: HeadGradient
    error: float
    beat: Beat = quiet
    unit: float = 1.0

    def signal(self, slopes: Tensor) -> Tensor:
        """Return the signal at the features, from the loss's derivatives (B, K) at the last layer's outputs."""
        signal = slopes @ self.head.layer.weight
        return signal.reshape(len(slopes), *self.features.meta["val"].shape[1:])

    def propagation(self) -> Propagation:
        """Return the propagation of values and signals that fits the network, with nothing known."""
        if mixes(self.network):
            return BatchPropagation(self.network, self.count, gradients=self.gradients)
        return Propagation(self.network, self.count)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What is known before the descent.

    Args:
        known: Values, masks and signals of nodes.
        labels: Class indices (B,), in the order of the values. Empty if the images must tell them.
        error: Relative error of the values.
        note: What was read, in one line.
        misfit: Relative misfit of the last layer's gradient.
        joint: Whether layers are read that do not alone determine all behind them.
    """

    known: Propagation
    labels: Tensor
    error: float
    note: str
    misfit: float = 0.0
    joint: bool = False


def is_nonnegative(node: fx.Node) -> bool:
    """Return whether a node is a ReLU, or pools one."""
    if name_of(node) == "getitem" or name_of(node).startswith(("max_pool", "avg_pool")):
        return is_nonnegative(node.all_input_nodes[0])
    return is_relu(node)


def _kind_of(node: fx.Node) -> str:
    """Return the name of the operation that computes a node, such as "gelu"."""
    return name_of(node.all_input_nodes[0] if name_of(node) == "getitem" else node)


def features_node(network: Network, weight: str) -> fx.Node | None:
    """Return the node of the input of the linear layer with this weight, or None."""
    for node in network.graph.nodes:
        if node not in network.used or name_of(node) not in LINEAR_LAYERS:
            continue
        sources = node.all_input_nodes
        fixed = {each for each in sources if each not in network.varying}
        names = {network.names.get(each) for each in fixed}
        names |= {
            network.names.get(each.all_input_nodes[0]) for each in fixed if each.all_input_nodes
        }
        varying: list[fx.Node] = [each for each in sources if each in network.varying]
        if weight in names and len(varying) == 1:
            return varying[0]
    return None
