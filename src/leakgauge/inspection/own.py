"""What a layer's own gradient gives away: the largest batch whose input it determines, by which attack."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from leakgauge.analytic.convolutions.counting import MANY, Reader
from leakgauge.analytic.convolutions.operations import activation_after, is_rectified, root_of
from leakgauge.inspection.layers import Layer

SEARCHED = 25
"""Largest batch of the exact search of `spear`. It draws about 2^B subsets."""
SEPARATED = 4
"""Fraction of a layer's width, as a divisor, up to which `cocktail_party` separated images in its benchmark."""
SPAN = "shift consistency"


@dataclass(frozen=True)
class Own:
    """What the gradient of one layer determines.

    Args:
        batch: Largest batch in which every example's input is determined. MANY for any batch.
        attack: Name of the attack. It is empty if there is none.
        note: Why the batch is not larger, or what else the gradient shows.
        masked: Whether the last layer's gradient helps, which tells the signal up to ReLU masks.
    """

    batch: int
    attack: str
    note: str = ""
    masked: bool = False


@dataclass(frozen=True)
class Place:
    """Where a layer stands.

    Args:
        end: The node of the network's output.
        fixed: Nodes that do not depend on the input.
        tokens: Whether the network's inputs are tokens.
        first: Whether no trained parameter stands between the input and the layer.
        patches: Name of the layer whose input the positional embedding's gradient gives, or empty.
        masked: Name of the convolution that the masks behind a pooled head tell, or empty, and its
            largest batch.
    """

    end: fx.Node
    fixed: Collection[fx.Node]
    tokens: bool
    first: bool
    patches: str
    masked: tuple[str, int] = ("", 0)


def own(layer: Layer, place: Place) -> Own:
    """Return what the gradient of a layer determines without any other layer."""
    if not layer.trained:
        return Own(0, "", "frozen: gives nothing")
    if layer.kind == "embedding":
        if layer.calls > 1:
            return Own(0, "", "tied: the gradients of both uses are added")
        return Own(MANY, "token_bag", "the set of tokens, not their order")
    reader = layer.reader
    if reader is None:
        return Own(0, "", "not counted")
    if layer.kind == "convolution":
        return _convolution(layer, reader, place)
    if root_of(place.end) is layer.node:
        return _last(reader)
    return _tokens(layer, reader, place) if reader.positions > 1 else _linear(layer, reader, place)


def _convolution(layer: Layer, reader: Reader, place: Place) -> Own:
    """Return what a convolution's gradient determines."""
    columns = layer.columns()
    wide = 0 if columns is None else columns.span() // layer.calls
    batch = max(wide, reader.span() // layer.calls)
    name, masked = place.masked
    if layer.name == name and masked > batch and reader.copies == 1 and layer.calls == 1:
        note = "with the masks behind a pooled head"
        return Own(masked, SPAN, f"{note}: {reader.reason()}".rstrip(": "), masked=True)
    if batch:
        note = "" if batch == 1 or is_rectified(layer.source) else "examples apart by independence"
        if wide > reader.span() // layer.calls:
            note = f"{note}{'; ' if note else ''}by its columns: {reader.channels} input channels"
        return Own(batch, SPAN, note)
    if layer.name == place.patches and reader.copies == 1:
        return Own(1, "april", "with the positional embedding's gradient")
    note = reader.reason()
    if columns is not None and columns.rows_in(1) < columns.positions:
        live = f"{columns.rows_in(1)} of {columns.rows} input channels live on noise"
        note = f"{note}; {live} for {columns.positions} places"
    return Own(0, "", note)


def _last(reader: Reader) -> Own:
    """Return what the last layer's gradient determines: its inputs, by softmax unmixing."""
    if reader.copies > 1:
        return Own(0, "", "several steps: the signals of all steps are added")
    if reader.positions > 1:
        return Own(0, "", f"{reader.positions} outputs for each example")
    least = min(reader.outputs - 1, reader.channels)
    note = f"{reader.outputs} classes"
    if reader.most is not None and reader.most < least:
        least, note = reader.most, f"{note}, and the signals of equal labels are dependent"
    return Own(max(0, least), "softmax_unmixing" if least > 0 else "", note)


def _linear(layer: Layer, reader: Reader, place: Place) -> Own:
    """Return what the gradient of a hidden linear layer determines."""
    if not layer.bias:
        return Own(0, "", "no bias: the inputs are known up to a mixture")
    if reader.copies > 1 or layer.calls > 1:
        batch = int(place.first and layer.calls == 1)
        return Own(batch, "linear_layer" if batch else "", "several gradients are added")
    width = min(reader.outputs, reader.channels)
    if activation_after(layer.node, set(place.fixed)) is None:
        return Own(1, "linear_layer", f"larger batches to {width} as a mixture")
    spear, party = min(width, SEARCHED), min(reader.outputs // SEPARATED, reader.channels)
    if place.first and party > spear:
        return Own(party, "cocktail_party", f"spear to {spear}, the span to {width}")
    return Own(spear, "spear" if place.first else "spear, on features", f"the span to {width}")


def _tokens(layer: Layer, reader: Reader, place: Place) -> Own:
    """Return what the gradient of a linear layer on tokens determines."""
    least = min(reader.outputs, reader.channels) - 1
    batch = least // (reader.signal * reader.copies * layer.calls)
    # The first token of a causal attention has one key, and no signal at its query.
    if reader.signal < reader.positions - 1 or (
        reader.signal < reader.positions and not place.tokens
    ):
        return Own(0, "", f"its signal has rank {reader.signal} for {reader.positions} tokens")
    if place.tokens:
        note = f"{reader.positions} tokens for {least + 1} dimensions"
        return Own(batch, "dager" if batch else "", note)
    note = f"{reader.positions} tokens for {least + 1} dimensions: "
    return Own(0, "", note + (f"their span to batch {batch}" if batch else "no span"))
