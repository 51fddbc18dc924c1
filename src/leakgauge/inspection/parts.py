"""The parts of a concatenation that a layer reads, perhaps through operations on each channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import fx

from leakgauge.analytic.convolutions.intervals import parts_of
from leakgauge.analytic.convolutions.operations import RECTIFIERS, batch_norm_of, is_affine, name_of

CHANNELWISE = ("upsample_", "avg_pool", "max_pool")
"""First words of operations that act on each channel alone, beside activations and normalizations."""


def channels_by_batch(
    source: fx.Node, values: Mapping[fx.Node, int], fixed: Collection[fx.Node]
) -> list[tuple[int, int]]:
    """Return numbers of channels of a layer's input, each with the largest batch in which they are known.

    It is empty unless the layer reads a concatenation.

    Args:
        source: The node of the layer's input.
        values: Largest batch in which each node is known.
        fixed: Nodes that do not depend on the network's input.
    """
    parts = _parts(source, values, set(fixed), 0)
    if len(parts) < 2:
        return []
    found, total = [], 0
    for batch, channels in sorted(parts, reverse=True):
        total += channels
        found.append((total, batch))
    return found


def _parts(
    node: fx.Node, values: Mapping[fx.Node, int], fixed: set[fx.Node], known: int
) -> list[tuple[int, int]]:
    """Return the parts of a node: the largest batch in which each is known, and its number of channels."""
    known = max(known, values[node])
    inputs = [n for n in node.all_input_nodes if n not in fixed]
    if name_of(node) == "cat":
        pieces = parts_of(node)
        if pieces is not None:
            return [part for each in pieces for part in _parts(each, values, fixed, known)]
    name = name_of(node)
    each_alone = (
        name in RECTIFIERS
        or name.startswith(CHANNELWISE)
        or batch_norm_of(node) is not None
        or (is_affine(node, fixed) and name not in ("view", "reshape", "permute", "transpose"))
    )
    if each_alone and len(inputs) == 1 and _joins(node, fixed):
        return _parts(inputs[0], values, fixed, known)
    return [(known, node.meta["val"].shape[1])]


def _joins(node: fx.Node, fixed: set[fx.Node]) -> bool:
    """Return whether a node is computed, channel by channel, from a concatenation with its number of channels."""
    while name_of(node) != "cat":
        inputs = [n for n in node.all_input_nodes if n not in fixed]
        if len(inputs) != 1 or name_of(node) == "convolution":
            return False
        (node,) = inputs
    return True
