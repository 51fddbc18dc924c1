"""The scales, signs and labels of the examples of a span, and the values and signals behind them.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_descent import BatchDescent
from leakgauge.analytic.convolutions.batch_norm import BatchPropagation, mixes, norm_behind
from leakgauge.analytic.convolutions.examples import Examples
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.problem import Beginning, Problem, is_nonnegative
from leakgauge.analytic.convolutions.propagation import Propagation
from leakgauge.analytic.convolutions.relative_scales import relative_scales
from leakgauge.analytic.convolutions.scaling import FITS, Scaled, scale_and_label, slopes_of
from leakgauge.analytic.convolutions.shift_scale import ShiftScaling, shift_behind
from leakgauge.analytic.convolutions.span import RowSpace
from leakgauge.core import Inapplicable

RESCALED = 4
"""Number of times that the scale of an input is corrected if only the layers below tell it."""


def _by_shift(problem: Problem, layer: Convolution, examples: Examples) -> Scaled | Inapplicable:
    """Return the scales and labels of examples from the shift behind a convolution, or why it tells none."""
    if mixes(problem.network):
        return Inapplicable("BatchNorm in train mode mixes the signals of the examples")
    shift = shift_behind(problem.network, layer)
    if shift is None or shift.name not in problem.gradients:
        return Inapplicable("no shift behind it has a gradient")
    scaling = ShiftScaling(problem.network, layer, problem.features, problem.head)
    return scaling.run(
        examples, problem.gradients[layer.name], problem.gradients[shift.name] * shift.factor
    )


def begun_at(
    problem: Problem,
    layer: Convolution,
    examples: Examples,
    scaled: Scaled,
    *,
    error: float,
    found: str,
) -> Beginning | Inapplicable:
    """Return the beginning at a convolution whose scaled examples are known, or why nothing follows from them.

    Args:
        problem: The gradient.
        layer: The convolution.
        examples: The examples of its input.
        scaled: Their scales and labels.
        error: Relative error of the examples.
        found: How the span was found, for the note.
    """
    shape = layer.source.meta["val"].shape[1:]
    value = (examples.values * scaled.scales[:, None, None]).reshape(problem.count, *shape)
    known = behind(problem, layer.source, value, scaled, error)
    if isinstance(known, Inapplicable):
        return Inapplicable(f"{layer.name}: {known.reason}")
    note = (
        f"input of {layer.name!r}: the span of {problem.count} was found{found}; the last layer fits to "
        f"{scaled.misfit:.0e}{scaled.said}"
    )
    return Beginning(known, scaled.labels, error, note, scaled.misfit)


def behind(
    problem: Problem, source: fx.Node, value: Tensor, scaled: Scaled, error: float
) -> Propagation | Inapplicable:
    """Return the values and signals behind a node. They depend on its value alone."""
    for last in (*[False] * RESCALED, True):
        known = problem.propagation()
        known.learn(source, value, error=error)
        features = known.value(problem.features)
        assert features is not None, "expected a cut in front of the features"
        slopes = slopes_of(
            problem.head.layer, problem.head.link, features.flatten(1), scaled.labels
        )
        known.signals[problem.features] = problem.signal(slopes * scaled.weights[:, None])
        if last or not isinstance(known, BatchPropagation) or not known.hides_scale(source):
            break
        moved = BatchDescent(known, problem.gradients, error=error).with_scale(source)
        if isinstance(moved, Inapplicable):
            return moved
        value = moved
    return known


def with_scales(
    problem: Problem, layer: Convolution, space: RowSpace, examples: Examples
) -> tuple[Examples, Scaled] | Inapplicable:
    """Return the examples with the right signs, and their scales and labels, or why these are not known."""
    signed = is_nonnegative(layer.source)
    if norm_behind(problem.network, layer.node) is not None:
        examples = examples if signed else with_sign(problem, layer.source, examples.values)
        ratios = relative_scales(examples.values, space, layer.geometry)
        scaled = scale_at(problem, layer.source, examples, ratios)
        return scaled if isinstance(scaled, Inapplicable) else (examples, scaled)
    by_shift = _by_shift(problem, layer, examples)
    if isinstance(by_shift, Scaled):
        return examples, by_shift
    examples = examples if signed else with_sign(problem, layer.source, examples.values)
    scaled = scale_at(problem, layer.source, examples)
    if isinstance(scaled, Inapplicable):
        return Inapplicable(f"{by_shift.reason}; {scaled.reason}")
    return examples, scaled


def with_sign(problem: Problem, source: fx.Node, basis: Tensor) -> Examples:
    """Return the input (1, C, N) of a batch of one, with the sign that the last layer's gradient fits."""
    none = torch.zeros(1, dtype=torch.float64)
    both = [Examples(sign * basis, none, none) for sign in (1.0, -1.0)]
    fits = [scale_at(problem, source, each) for each in both]
    misfits = [math.inf if isinstance(fit, Inapplicable) else fit.misfit for fit in fits]
    return both[misfits.index(min(misfits))]


def scale_at(
    problem: Problem,
    source: fx.Node,
    examples: Examples,
    ratios: Tensor | None = None,
    *,
    fits: float = FITS,
) -> Scaled | Inapplicable:
    """Return the scales and labels of examples at a node. Ratios (B,) of the scales may be known."""
    network, shape = problem.network, source.meta["val"].shape[1:]

    def features(scales: Tensor) -> Tensor:
        problem.beat()
        value = (examples.values * scales[:, None, None]).reshape(len(scales), *shape)
        with torch.no_grad():
            return network.evaluate([problem.features], {source: value})[problem.features].flatten(
                1
            )

    center = torch.full((problem.count,), 0.5 * math.sqrt(math.prod(shape)), dtype=torch.float64)
    if ratios is not None:
        center = center * ratios
    head, together = problem.head, ratios is not None
    return scale_and_label(
        features,
        head.layer,
        head.link,
        problem.count,
        center=center,
        together=together,
        fits=fits,
    )
