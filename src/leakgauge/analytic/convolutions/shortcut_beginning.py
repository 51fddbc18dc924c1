r"""The beginning of a descent inside the last block, whose shortcut goes around the convolution.

The span tells the inputs of a convolution, up to their scales. What the shortcut adds behind it is not
known, so the features of the last layer are not, either. Four equations do without them:

1. The gradient of the weight tells the signals at its output, and the shift behind it the scales.
2. The next convolution reads a known value v now. So :math:`dW = \Delta V` tells the signals :math:`\Delta`
   at its output, whose ReLU follows the sum with the shortcut.
3. There, the mean over positions sends the same signal to all places where the mask is 1. Where the signal
   is 0, the mask is 0.
4. Where it is not, it is linear in the loss's derivatives at the last layer's outputs. Least squares finds
   them, and its misfit certifies masks and scales. The smallest derivative is that of the label.

Then the shortcut's signal is known, too, and the descent goes on as usual.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.counting import Reader
from leakgauge.analytic.convolutions.examples import Examples
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.operations import root_of
from leakgauge.analytic.convolutions.problem import Beginning, Outline, Problem, is_nonnegative
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.analytic.convolutions.repairs import relu_behind
from leakgauge.analytic.convolutions.scaling import FITS
from leakgauge.analytic.convolutions.shift_scale import (
    Shift,
    scale_by_shift,
    shift_behind,
    signals_of,
)
from leakgauge.analytic.convolutions.span_beginning import examples_at
from leakgauge.core import Inapplicable

PRESENT = 1e-3
"""Least signal, in units of its root mean square, where a mask counts as 1."""


@dataclass(frozen=True, eq=False)
class ShortcutBlock:
    """The last block of a network, with a shortcut around its convolutions.

    Args:
        layer: The convolution whose span is sought.
        after: The last convolution of the block.
        relu: The ReLU at its end.
        shift: The shift behind the first one.
    """

    layer: Convolution
    after: Convolution
    relu: fx.Node
    shift: Shift


def shortcut_block(problem: Outline) -> ShortcutBlock | Inapplicable:
    """Return the last block of a network if counting allows to begin in it, or why it does not."""
    network, gradients, count = problem.network, problem.gradients, problem.count
    inputs = root_of(problem.features).all_input_nodes
    relu = inputs[0] if inputs else problem.features
    if mixes(network) or not is_relu(relu):
        return Inapplicable("no ReLU ends the last block")
    ends = [c for c in network.convolutions if relu_behind(network, c.node) is relu]
    for layer in reversed(network.convolutions):
        shift = shift_behind(network, layer)
        if layer.groups > 1 or shift is None or not is_nonnegative(layer.source):
            continue
        if Reader(layer.geometry, layer.channels, len(layer.weight)).span() < count:
            continue
        for after in ends:
            known = {layer.name, after.name, shift.name} <= set(gradients)
            wide = count * after.geometry.positions <= after.weight[0].numel()
            if known and wide and after.groups == 1 and _follows(problem, layer, after):
                return ShortcutBlock(layer, after, relu, shift)
    return Inapplicable("no span and its signals are in its last block")


def _follows(problem: Outline, layer: Convolution, after: Convolution) -> bool:
    """Return whether the input of one convolution alone determines that of another one."""
    if after.source is layer.source:
        return False
    try:
        problem.network.between([after.source], [layer.source])
    except ValueError:
        return False
    return True


def begin_behind_shortcut(
    problem: Problem, block: ShortcutBlock, *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning inside the last block, or why there is none."""
    name = block.layer.name
    found = examples_at(problem, block.layer, generator=generator)
    if isinstance(found, Inapplicable):
        return found
    examples, _, gap = found
    scaled = _scaled(problem, block, examples)
    if isinstance(scaled, Inapplicable):
        return Inapplicable(f"{name}: {scaled.reason}")
    error = max(float(examples.excursion.max()), 1e-9)
    known = problem.propagation()
    known.learn(block.layer.source, scaled, error=error)
    told = _slopes(problem, block, known)
    if isinstance(told, Inapplicable):
        return Inapplicable(f"{name}: {told.reason}")
    slopes, mask, misfit = told
    known.masks[block.relu], known.doubts[block.relu] = mask, torch.zeros_like(mask)
    known.signals[problem.features] = problem.signal(slopes)
    note = (
        f"input of {name!r}: the span of {problem.count} was found (gap {gap:.0e}); the signals of "
        f"{block.after.name!r} fit the last layer to {misfit:.0e}"
    )
    return Beginning(known, slopes.argmin(1), error, note, misfit)


def _scaled(problem: Problem, block: ShortcutBlock, examples: Examples) -> Tensor | Inapplicable:
    """Return the inputs (B, C, ...) of the convolution with their scales, or why these are not known."""
    signals = signals_of(problem.gradients[block.layer.name], examples.values, block.layer)
    shift = problem.gradients[block.shift.name] * block.shift.factor
    scales, misfit = scale_by_shift(signals, shift)
    if misfit > FITS or not bool((scales > 0).all()):
        return Inapplicable(
            f"no scales of the examples fit the shift behind it (relative misfit {misfit:.0e})"
        )
    value = examples.values * scales[:, None, None]
    return value.reshape(len(scales), *block.layer.source.meta["val"].shape[1:])


def _slopes(
    problem: Problem, block: ShortcutBlock, known: Propagation
) -> tuple[Tensor, Tensor, float] | Inapplicable:
    """Return the derivatives (B, K) at the last layer's outputs, the mask of the last ReLU, and the misfit."""
    after, outputs = block.after, problem.head.layer.weight
    value = known.value(after.source)
    assert value is not None, (
        "expected the input of the last convolution to follow from the first one's"
    )
    signals = signals_of(problem.gradients[after.name], value.flatten(2), after)
    # What one unit of derivative at each of the K outputs sends to the ReLU, and on to the convolution.
    unit = Propagation(problem.network, len(outputs))
    unit.signals[problem.features] = problem.signal(torch.eye(len(outputs)).to(outputs))
    unit.masks[block.relu] = torch.ones(
        len(outputs), *block.relu.meta["val"].shape[1:], dtype=torch.bool
    )
    sent = unit.signal(after.node)
    if sent is None:
        return Inapplicable("the signal of the last layer does not reach the last convolution")
    size = signals.square().mean((1, 2), keepdim=True).sqrt()
    mask = signals.abs() > PRESENT * size
    slopes, left = [], []
    for each, here in zip(signals, mask, strict=True):
        matrix = sent.flatten(2)[:, here].T
        slope = torch.linalg.lstsq(matrix, each[here][:, None], driver="gelsd").solution[:, 0]
        slopes.append(slope)
        left.append((matrix @ slope - each[here]).norm() / each.norm())
    misfit = float(torch.stack(left).max())
    if misfit > FITS:
        return Inapplicable(
            f"no labels of the examples fit the signals of {after.name!r} (relative misfit {misfit:.0e})"
        )
    shape = (problem.count, *block.relu.meta["val"].shape[1:])
    return torch.stack(slopes), mask.reshape(shape), misfit
