"""Where a descent through a network can begin: features of each example, their labels and signals.

There are four ways:

- *span*: the inputs of a convolution from the row space of its gradient. It must have as many output
  channels as the batch has positions, and everything behind it must depend on this input alone.
- *layer*: the input of any convolution whose gradient tells it by its rows or columns, with its signal.
- *shortcut*: the same inside the last block, whose shortcut goes around the convolution.
- *masks*: the input of the last convolution in front of a mean over positions. The head tells the
  signal of each channel, up to a mask of bits.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from leakgauge.analytic.convolutions.batch_descent import BatchDescent
from leakgauge.analytic.convolutions.batch_norm import BatchPropagation
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.joint_descent import JointDescent
from leakgauge.analytic.convolutions.mask_beginning import LastBlock, begin_by_masks, last_block
from leakgauge.analytic.convolutions.problem import Beginning, Outline, Problem
from leakgauge.analytic.convolutions.several_inputs import begin_by_layer, readable
from leakgauge.analytic.convolutions.shortcut_beginning import (
    ShortcutBlock,
    begin_behind_shortcut,
    shortcut_block,
)
from leakgauge.analytic.convolutions.span_beginning import begin_by_span
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat


def why_none_begins(problem: Outline) -> str | None:
    """Return why counting alone shows that there is no beginning, in one line, or None."""
    counted = list(problem.candidates())
    refusals = [refusal for _, refusal in counted]
    if any(refusal is None for refusal in refusals):
        return None
    block = last_block(problem)
    if isinstance(block, LastBlock) or readable(problem):
        return None
    if isinstance(shortcut_block(problem), ShortcutBlock):
        return None
    grouped = [refusal for layer, refusal in counted[:-1] if layer.groups > 1][-1:]
    reasons = [refusal.reason for refusal in (*refusals[-1:], *grouped) if refusal is not None]
    spans = "; ".join(reasons) or "no convolution has a gradient"
    return f"{spans}; and by the end of the network: {block.reason}"


def begin(problem: Problem, *, generator: torch.Generator) -> Beginning | Inapplicable:
    """Return the best beginning of a descent, or the reasons why there is none.

    Args:
        problem: The gradient.
        generator: Source of the draws.
    """
    reasons: list[str] = []
    for layer, refusal in problem.candidates():
        found = refusal or begin_by_span(problem, layer, generator=generator)
        if isinstance(found, Beginning):
            return found
        reasons.append(found.reason)
    block = shortcut_block(problem)
    if isinstance(block, ShortcutBlock):
        inside = begin_behind_shortcut(problem, block, generator=generator)
        if isinstance(inside, Beginning):
            return inside
        reasons.append(inside.reason)
    return begin_without_span(problem, reasons, generator=generator)


def begin_without_span(
    problem: Problem, reasons: Sequence[str], *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning by masks, or why neither this nor a span begins.

    Args:
        problem: The gradient.
        reasons: Why no span was found, layer by layer.
        generator: Source of the starts.
    """
    layers = readable(problem)
    by_layer = begin_by_layer(problem, layers, generator=generator)
    if isinstance(by_layer, Beginning):
        return by_layer
    by_masks = begin_by_masks(problem, generator=generator)
    if isinstance(by_masks, Beginning):
        return by_masks
    said = [*reasons[-1:], by_layer.reason] if layers else reasons[-1:]
    last = "; ".join(dict.fromkeys(said)) or "no convolution has a gradient"
    return Inapplicable(f"{last}; and by the end of the network: {by_masks.reason}")


def descent_of(problem: Problem, found: Beginning, beat: Beat) -> Descent:
    """Return the descent from a beginning."""
    if isinstance(found.known, BatchPropagation):
        return BatchDescent(found.known, problem.gradients, error=found.error, beat=beat)
    if found.joint:
        return JointDescent(
            found.known, problem.gradients, error=found.error, beat=beat, problem=problem
        )
    return Descent(found.known, problem.gradients, error=found.error, beat=beat)
