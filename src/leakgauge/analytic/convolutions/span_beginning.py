"""The beginning of a descent by a span: the inputs of a convolution from the row space of its gradient.

The convolution must have as many output channels as the batch has positions. Everything behind it must
depend on this input alone.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import norm_behind
from leakgauge.analytic.convolutions.examples import Examples, separate
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.problem import Beginning, Problem, is_nonnegative
from leakgauge.analytic.convolutions.scaled_beginning import begun_at, with_scales
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, Span, row_space, span_of
from leakgauge.core import Inapplicable

CONSISTENT = 1e-5
"""Largest defect of a span that is believed."""
GAP = 100.0
"""Least ratio of the first defect behind the span to the last one inside it."""


def begin_by_span(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning at one convolution's input, or the reason why it is not known."""
    found = examples_at(problem, layer, generator=generator)
    if isinstance(found, Inapplicable):
        return found
    examples, space, gap = found
    begun = with_scales(problem, layer, space, examples)
    if isinstance(begun, Inapplicable):
        return Inapplicable(f"{layer.name}: {begun.reason}")
    examples, scaled = begun
    error = max(float(examples.excursion.max()), 1e-9)
    return begun_at(problem, layer, examples, scaled, error=error, found=f" (gap {gap:.0e})")


def examples_at(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> tuple[Examples, RowSpace, float] | Inapplicable:
    """Return the examples at a convolution's input, its row space, and the gap of the span, or why there are none."""
    count, name = problem.count, layer.name
    problem.beat()
    spanned = _span_at(problem, layer, generator=generator)
    if isinstance(spanned, Inapplicable):
        return spanned
    space, span = spanned
    examples = examples_of(problem, layer.source, span.basis, generator=generator)
    if len(examples.values) < count:
        return Inapplicable(f"{name}: {few_told_apart(examples, count)}")
    return examples, space, span.gap


def few_told_apart(examples: Examples, count: int) -> str:
    """Return in one line that fewer than `count` examples were told apart."""
    return (
        f"{len(examples.values)} of {count} examples were told apart (equal or proportional ones cannot be, and "
        "nearly equal ones have many nonnegative combinations)"
    )


def examples_of(
    problem: Problem, source: fx.Node, basis: Tensor, *, generator: torch.Generator
) -> Examples:
    """Return the examples of a span, told apart by their zeros behind a ReLU. Elsewhere, the one of the basis.

    Args:
        problem: The gradient.
        source: The node of the input.
        basis: Basis (B, C, N) of the span.
        generator: Source of the draws.
    """
    if is_nonnegative(source):
        return separate(basis, problem.count, generator=generator, beat=problem.beat)
    none = torch.zeros(1, dtype=torch.float64)
    return Examples(basis, none, none)


def _span_at(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> tuple[RowSpace, Span] | Inapplicable:
    """Return the row space of a convolution's gradient and the span of its inputs, or why the span is not known."""
    count, name = problem.count, layer.name
    space = row_space(problem.gradients[name], error=problem.error)
    # BatchNorm in train mode removes the mean of the patches.
    centered = norm_behind(problem.network, layer.node) is not None
    wanted = count * layer.geometry.positions - centered
    if space.rank < wanted:
        return Inapplicable(f"{name}: its gradient has rank {space.rank} for {wanted} positions")
    if space.rank > wanted:
        space = RowSpace(space.basis[:wanted], wanted, space.floor)
    operator = Consistency(space, layer.geometry, layer.channels, centered)
    span = span_of(operator, count, generator=generator, beat=problem.beat)
    if float(span.defects[count - 1]) > CONSISTENT or span.gap < GAP:
        return Inapplicable(
            f"{name}: its row space does not hold exactly {count} inputs "
            f"(defects {span.defects[count - 1]:.0e}, and {span.defects[count]:.0e} for one more)"
        )
    return space, span
