"""The equations for a layer's input that follow from what is known of the network's nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.equations import GradientOf, OutputOf
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.propagation import Propagation
from leakgauge.analytic.convolutions.repairs import relu_behind


def gradient_equations(
    known: Propagation, layer: Convolution, dweight: Tensor
) -> GradientOf | None:
    """Return the gradient of a layer's weight with its signal, or None if the signal is not known.

    Args:
        known: What is known of the nodes.
        layer: The layer. Layers with groups give None.
        dweight: The gradient of its weight.
    """
    if layer.groups != 1:
        return None
    relu = relu_behind(known.network, layer.node)
    if relu is not None and relu in known.masks:
        mask, doubts = known.masks[relu], known.doubts[relu]
        full = _unmasked(known, layer.node, relu)
    else:
        full = known.signal(layer.node)
        mask = torch.ones(layer.node.meta["val"].shape[1:], dtype=torch.bool)
        mask = mask.expand(known.count, *mask.shape)
        doubts = ~mask
    if full is None:
        return None
    parts = (t.flatten(2) for t in (full, mask, doubts))
    return GradientOf(layer.geometry, dweight.flatten(2), *parts)


def _unmasked(known: Propagation, node: fx.Node, relu: fx.Node) -> Tensor | None:
    """Return the signal that a node would have if the ReLU behind it let everything pass, or None."""
    kept = known.masks[relu]
    known.masks[relu] = torch.ones_like(kept)
    try:
        return known.signal(node)
    finally:
        known.masks[relu] = kept


def output_equations(known: Propagation, layers: Sequence[Convolution]) -> list[OutputOf]:
    """Return the known entries of the outputs of layers without groups."""
    outputs = []
    for layer in layers:
        partial = known.partial(layer.node)
        if partial is not None and layer.groups == 1:
            value = partial.value if layer.bias is None else partial.value - layer.bias
            outputs.append(
                OutputOf(
                    layer.geometry,
                    layer.weight.flatten(2),
                    value.flatten(2),
                    partial.known.flatten(2),
                )
            )
    return outputs


def known_entries(known: Propagation, source: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Return the known entries of a node's value and their marks, both (B, C, N), or None if there are none."""
    entries = known.partial(source)
    if entries is None:
        return None
    return entries.value.flatten(2), entries.known.flatten(2).to(entries.value)
