"""The beginning of a descent by masks: the input of the last convolution in front of a mean over positions.

The head tells the signal of each channel, up to a mask of bits.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_masks import separate_masks
from leakgauge.analytic.convolutions.binary_masks import MaskedInputs, recover_masks
from leakgauge.analytic.convolutions.network import Convolution, arguments_of
from leakgauge.analytic.convolutions.operations import name_of, root_of
from leakgauge.analytic.convolutions.pooled_head import ActiveCounts, count_active, read_pooled_head
from leakgauge.analytic.convolutions.problem import Beginning, Outline, Problem
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu, is_steady_norm
from leakgauge.analytic.convolutions.repairs import relu_behind
from leakgauge.analytic.convolutions.span import Consistency, row_space, span_of
from leakgauge.analytic.softmax_unmixing import unmix
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat


@dataclass(frozen=True, eq=False)
class LastBlock:
    """The end of a network: a convolution, a shift, a ReLU, a mean over positions, the last layer.

    Args:
        layer: The convolution.
        relu: The ReLU behind it.
        shift: Name of the shift between them.
        scale: (O,), the factor from the convolution's output to the ReLU's input.
    """

    layer: Convolution
    relu: fx.Node
    shift: str
    scale: Tensor


def begin_by_masks(problem: Problem, *, generator: torch.Generator) -> Beginning | Inapplicable:
    """Return the beginning at the last convolution in front of a pooled head, or why there is none."""
    block = last_block(problem)
    if isinstance(block, Inapplicable):
        return block
    head, layer, count = problem.head, block.layer, problem.count
    if head.layer.dbias is None:
        return Inapplicable("the last layer has no bias")
    dweight, dshift = problem.gradients[layer.name], problem.gradients[block.shift]
    positions = layer.geometry.positions
    if count == 1:
        told = read_pooled_head(
            head.layer.dweight, head.layer.dbias, head.layer.weight, positions, error=problem.error
        )
        if isinstance(told, Inapplicable):
            return told
        slopes, labels = told.slope[None], told.slope.argmin()[None]
        active = count_active(dweight, dshift, block.scale, told, positions)
        found = _masks_of_one(active, layer, generator, problem.beat)
    else:
        unmixed = unmix(head.layer, head.link, generator=generator, tell=lambda _: problem.beat())
        if not unmixed.certified:
            return Inapplicable("the last layer does not tell the features of all examples")
        labels = unmixed.labels
        slopes = head.link.slopes(unmixed.outputs, labels) / count
        levels = (slopes @ head.layer.weight).T / positions
        rows = dweight.flatten(2) / block.scale[:, None, None]
        span = _rough_span(rows, layer, count, generator)
        found = separate_masks(rows, dshift, levels, span, layer.geometry, beat=problem.beat)
    if isinstance(found, Inapplicable):
        return Inapplicable(f"{layer.name}: {found.reason}")
    if not found.certified:
        return Inapplicable(
            f"{layer.name}: no masks explain its gradient (relative misfit {found.residual:.0e})"
        )
    known = _known_from(problem, block, found)
    known.signals[problem.features] = problem.signal(slopes)
    note = f"input of {layer.name!r}: masks behind it explain its gradient to {found.residual:.0e}"
    return Beginning(known, labels, max(found.residual, 1e-9), note)


def _known_from(problem: Problem, block: LastBlock, found: MaskedInputs) -> Propagation:
    """Return the input and the masks of the last block as known values."""
    source, relu, count = block.layer.source, block.relu, problem.count
    known = Propagation(problem.network, count)
    shape = source.meta["val"].shape[1:]
    known.learn(source, found.inputs.reshape(count, *shape), error=problem.error)
    known.masks[relu] = found.masks.reshape(count, *relu.meta["val"].shape[1:])
    known.doubts[relu] = torch.zeros_like(known.masks[relu])
    return known


def last_block(problem: Outline) -> LastBlock | Inapplicable:
    """Return the end of the network if it has the form of a block with a pooled head."""
    network, gradients = problem.network, problem.gradients
    pooled = root_of(problem.features)
    if not name_of(pooled).startswith(("mean", "_adaptive_avg_pool", "avg_pool")):
        return Inapplicable("the last layer does not read means over all positions")
    relu = pooled.all_input_nodes[0]
    if math.prod(pooled.meta["val"].shape[1:]) != relu.meta["val"].shape[1] or not is_relu(relu):
        return Inapplicable("the last layer does not read means of a ReLU over all positions")
    for layer in reversed(network.convolutions):
        if relu_behind(network, layer.node) is not relu or layer.groups > 1:
            continue
        if int(layer.geometry.reads.max()) == 1:
            # A projection on a shortcut has the same ReLU, but patches that do not overlap.
            continue
        (user,) = network.users(layer.node)
        if not is_steady_norm(user):
            continue
        shift = network.names.get(arguments_of(user)[2])
        if layer.name in gradients and not bool(gradients[layer.name].any()):
            return Inapplicable(f"{layer.name}: its gradient is 0")
        if shift is not None and shift in gradients and layer.name in gradients:
            scale = Propagation(network, problem.count).slope(user).flatten()
            return LastBlock(layer, relu, shift, scale)
    return Inapplicable(
        "no convolution of one group with a trained BatchNorm in eval mode ends the network"
    )


def _rough_span(rows: Tensor, layer: Convolution, count: int, generator: torch.Generator) -> Tensor:
    """Return vectors (n, C, N) that nearly span the inputs, from rows (O, C, K) of a gradient."""
    norms = rows.flatten(1).norm(dim=1)
    used = rows[norms > 1e-9 * norms.max()] / norms[norms > 1e-9 * norms.max()][:, None, None]
    space = row_space(used, error=1e-7)
    operator = Consistency(space, layer.geometry, layer.channels)
    return span_of(operator, count, generator=generator).basis


def _masks_of_one(
    active: ActiveCounts, layer: Convolution, generator: torch.Generator, beat: Beat
) -> MaskedInputs | Inapplicable:
    """Return the masks and the input of one example behind a pooled head."""
    rows, counts = active.rows, active.counts
    if not bool((counts > 0).any()):
        return Inapplicable("no channel tells its number of active positions")
    start = _rough_span(rows[counts > 0], layer, 1, generator)
    levels = active.levels[:, None]
    return recover_masks(rows, levels, counts[:, None], start, layer.geometry, beat=beat)
