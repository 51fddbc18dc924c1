"""The beginning of a descent in a network whose outputs depend on a layer's input and on more.

A layer of a DenseNet or a U-Net may be read wherever its output goes. Bounds on all nodes follow from its
input. If they determine the features, the last layer tells labels and signals. Otherwise the
signal at the layer's own output is known, and the images tell the labels in the end.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.intervals import Intervals
from leakgauge.analytic.convolutions.layer_readings import NotApart, Reading, read_layer
from leakgauge.analytic.convolutions.layer_spans import most_by_columns, most_by_rows
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.problem import Beginning, Outline, Problem, is_nonnegative
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.analytic.convolutions.shift_scale import ShiftScaling
from leakgauge.core import Inapplicable


def why_unread(outline: Outline, layer: Convolution) -> str | None:
    """Return why counting shows that a layer alone does not tell its input, in numbers, or None."""
    count, geometry, groups = outline.count, layer.geometry, layer.groups
    outputs, inputs = len(layer.weight) // groups, layer.channels // groups
    inside = f" of each of {groups} groups" if groups > 1 else ""
    most = max(most_by_rows(geometry, inputs, outputs), most_by_columns(geometry, inputs, outputs))
    if most < count:
        return (
            f"{layer.name}: {outputs} output channels{inside} for {count * geometry.positions} positions, "
            f"and {inputs} input channels for {count * geometry.places} places"
        )
    if groups > 1 and count > 1:
        return (
            f"{layer.name}: its {groups} groups do not tell which of their inputs belong together"
        )
    if count > 1 and not is_nonnegative(layer.source):
        return f"{layer.name}: no ReLU makes its input sparse"
    return None


def readable(outline: Outline) -> list[Convolution]:
    """Return the convolutions whose gradient alone may tell their input, the earliest first."""
    if mixes(outline.network):
        return []
    return [
        layer
        for layer in outline.network.convolutions
        if layer.name in outline.gradients and why_unread(outline, layer) is None
    ]


def begin_by_layer(
    problem: Problem, layers: Sequence[Convolution], *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning at the earliest convolution that can be read, or why there is none.

    Args:
        problem: The gradient.
        layers: The `readable` convolutions.
        generator: Source of the starts.
    """
    reason = Inapplicable("no layer has enough channels for its positions or places")
    for layer in layers:
        problem.beat()
        reading = read_layer(problem, layer, generator=generator)
        if isinstance(reading, Reading):
            return _begin(problem, reading)
        # The layer that came furthest says most.
        reason = reason if isinstance(reason, NotApart) else reading
    return reason


def _begin(problem: Problem, reading: Reading) -> Beginning:
    """Return the beginning at a layer that was read."""
    known = problem.propagation()
    known.learn(reading.layer.source, reading.value, error=reading.error)
    known.signals[reading.layer.node] = reading.signal
    nothing = torch.zeros(0, dtype=torch.long)
    return Beginning(known, nothing, reading.error, reading.note, joint=True)


def complete(known: Propagation, *wanted: fx.Node) -> Intervals:
    """Add the values of nodes that bounds determine, and return the bounds.

    Args:
        known: What is known of the nodes.
        wanted: Nodes that are added beside ReLUs and inputs of convolutions.
    """
    network = known.network
    useful = {convolution.source for convolution in network.convolutions} | set(wanted)
    bounds = Intervals(network, known.values, known.count)
    found = bounds.determined()
    for node in network.graph.nodes:
        if node not in found or not (is_relu(node) or node in useful):
            continue
        if known.value(node) is None:
            known.learn(node, found[node])
    return bounds


def label(problem: Problem, features: Tensor) -> tuple[Tensor, float]:
    """Return the labels (B,) of known features (B, F), and the relative misfit of the last layer's gradient.

    Each step changes the label that lowers the misfit most.
    """
    first = problem.network.convolutions[0]
    fit = ShiftScaling(problem.network, first, problem.features, problem.head)
    classes = fit.candidates(features)
    mixed = problem.head.layer.dweight @ torch.linalg.pinv(features)
    labels = torch.tensor(classes)[mixed[classes].argmin(0)]
    misfit, examples = fit.misfit(features, labels), torch.arange(len(labels))
    for _ in examples:
        trials = [torch.where(examples == i, each, labels) for i in examples for each in classes]
        misfits = [fit.misfit(features, trial) for trial in trials]
        if min(misfits) >= misfit:
            break
        misfit = min(misfits)
        labels = trials[misfits.index(misfit)]
    return labels, misfit
