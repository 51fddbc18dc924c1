"""Where a descent begins if the update has errors larger than the rounding of float32.

The span of each convolution that counting allows is refined, and its expected error computed. The
descent begins at the layer of the least error. Errors that are too large are a reason to stop. Several
local steps count as one gradient at a model on the way.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from leakgauge.analytic.convolutions.beginning import begin_without_span
from leakgauge.analytic.convolutions.examples import one_of, separate
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.noisy_span import Bilinear, Refined, refine
from leakgauge.analytic.convolutions.observed import read_problem
from leakgauge.analytic.convolutions.problem import Beginning, Problem, is_nonnegative
from leakgauge.analytic.convolutions.scaled_beginning import begun_at, scale_at, with_sign
from leakgauge.analytic.convolutions.scaling import FITS
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, row_space, span_of
from leakgauge.analytic.convolutions.update_error import UpdateError, hidden_rank
from leakgauge.core import Inapplicable, Observation
from leakgauge.federated.training.local_steps import interpolate

MOST = 0.4
"""Largest expected error of a span that is used, as the sine of an angle."""
UNEXPLAINED = 3.0
"""Largest misfit of a span that is used, relative to the known error of its gradient."""
HIDDEN = 0.5
"""Largest fraction of the positions whose singular values errors may hide."""
LOOSE = 10.0
"""Largest misfit of the last layer, relative to that of the span. Errors differ between layers."""
TRIED = 3
"""Largest number of spans that are separated into examples."""


@dataclass(frozen=True, eq=False)
class Spans:
    """The spans of convolutions' inputs under errors, the surest first.

    Args:
        found: The name of each convolution's weight, with its span.
        reasons: Why other convolutions tell nothing.
    """

    found: tuple[tuple[str, Refined], ...]
    reasons: tuple[str, ...]


def refined_spans(problem: Problem, errors: UpdateError, *, generator: torch.Generator) -> Spans:
    """Return the spans of all convolutions that counting allows, the surest first.

    Args:
        problem: The gradient.
        errors: The errors of its tensors.
        generator: Source of the draws.
    """
    counted: list[str] = []
    unsure: list[str] = []
    found: list[tuple[str, Refined]] = []
    for layer, refusal in problem.candidates():
        if refusal is not None:
            counted.append(refusal.reason)
            continue
        span = _refined(problem, errors, layer, generator)
        if isinstance(span, Inapplicable):
            unsure.append(span.reason)
        else:
            found.append((layer.name, span))
    found.sort(key=lambda pair: pair[1].error)
    return Spans(tuple(found), (*counted, *unsure))


def begin_with_errors(
    problem: Problem, errors: UpdateError, spans: Spans, *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning of a descent at the surest span that fits, or the reasons why there is none.

    Args:
        problem: The gradient.
        errors: The errors of its tensors.
        spans: The spans of its convolutions.
        generator: Source of the draws.
    """
    reasons = list(spans.reasons)
    layers = {layer.name: layer for layer in problem.network.convolutions}
    head = errors.relative([problem.head.head.weight])
    best: Beginning | None = None
    for name, span in spans.found[:TRIED]:
        fits = max(FITS, 3 * head + 3 * span.error, LOOSE * span.misfit)
        begun = _begin_at(problem, layers[name], span, fits=fits, generator=generator)
        if isinstance(begun, Inapplicable):
            reasons.append(begun.reason)
            continue
        # The last layer shows errors that the span does not know of.
        begun = replace(begun, error=max(begun.error, begun.misfit - head))
        # Least squares may end beside the best input. The expected error misses this, the last layer does not.
        if best is None or begun.error + begun.misfit < best.error + best.misfit:
            best = begun
    if best is not None:
        return best
    return begin_without_span(problem, reasons, generator=generator)


def _begin_at(
    problem: Problem,
    layer: Convolution,
    span: Refined,
    *,
    fits: float,
    generator: torch.Generator,
) -> Beginning | Inapplicable:
    """Return the beginning at a convolution whose refined span is known, or the reason why it tells nothing."""
    count, name, error = problem.count, layer.name, max(span.error, 1e-9)
    if not is_nonnegative(layer.source):
        examples = with_sign(problem, layer.source, span.basis)
    elif count == 1:
        examples = one_of(span.basis, error)
    else:
        examples = separate(span.basis, count, generator=generator, error=error, beat=problem.beat)
    if len(examples.values) < count:
        return Inapplicable(
            f"{name}: {len(examples.values)} of {count} examples were told apart "
            f"(their span has an expected error of {error:.0e})"
        )
    scaled = scale_at(problem, layer.source, examples, fits=fits)
    if isinstance(scaled, Inapplicable):
        return Inapplicable(f"{name}: {scaled.reason}")
    expected = f", with an expected error of {error:.0e}"
    return begun_at(problem, layer, examples, scaled, error=error, found=expected)


def _refined(
    problem: Problem, errors: UpdateError, layer: Convolution, generator: torch.Generator
) -> Refined | Inapplicable:
    """Return the span of a layer, or the reason why its error is too large."""
    name, count = layer.name, problem.count
    gradient, entry = problem.gradients[name].flatten(2), errors.entries[name]
    wanted = count * layer.geometry.positions
    space = row_space(gradient, error=problem.error, sigma=entry.alike)
    rank = min(space.rank, wanted)
    if rank < count:
        return Inapplicable(f"{name}: its gradient has rank {rank} for {wanted} positions")
    kept = RowSpace(space.basis[:rank], rank, space.floor)
    hidden = 0 if entry.graded else hidden_rank(gradient, entry.sigma, wanted)
    if hidden > HIDDEN * wanted:
        return Inapplicable(
            f"{name}: errors of {entry.relative:.0e} of its gradient hide {hidden} of {wanted} positions"
        )
    operator = Consistency(kept, layer.geometry, layer.channels)
    start = span_of(operator, count, generator=generator, beat=problem.beat)
    bilinear = Bilinear(gradient, layer.geometry, entry.weights(gradient))
    span = refine(bilinear, start.basis, sigma=entry.sure, generator=generator, beat=problem.beat)
    if not math.isfinite(span.error) or span.error > MOST:
        return Inapplicable(
            f"{name}: errors of {entry.relative:.0e} of its gradient leave its inputs unsure "
            f"(expected error {span.error:.0e}, at most {MOST} is used)"
        )
    if span.misfit > UNEXPLAINED * entry.relative:
        return Inapplicable(
            f"{name}: {count} inputs explain its gradient to {span.misfit:.0e}, and its errors are "
            f"{entry.relative:.0e}"
        )
    return span


MODELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Fractions of the first model, mixed with the last one, that are tried for several local steps."""
DRIFT = 4.0
"""Expected error of an input over local steps, in units of the last layer's misfit."""


def begin_unsure(
    observation: Observation, problem: Problem, errors: UpdateError, generator: torch.Generator
) -> tuple[Problem, Beginning | Inapplicable]:
    """Return the problem and the beginning of a descent under errors.

    Local steps move the weights. The inputs found are then a mean over the steps, at a model between
    the first and the last one. The last layer's gradient tells which model fits best.
    """
    spans = refined_spans(problem, errors, generator=generator)
    if observation.training.kind == "gradient":
        return problem, begin_with_errors(problem, errors, spans, generator=generator)
    best: tuple[Problem, Beginning | Inapplicable] | None = None
    for fraction in MODELS:
        trial = read_problem(interpolate(observation, fraction))
        if isinstance(trial, Inapplicable):
            continue
        trial = replace(trial, beat=problem.beat)
        begun = begin_with_errors(trial, errors, spans, generator=generator)
        if best is None or misfit_of(begun) < misfit_of(best[1]):
            best = trial, begun
    assert best is not None
    if isinstance(best[1], Beginning):
        drift = max(best[1].error, DRIFT * best[1].misfit)
        best = best[0], replace(best[1], error=drift)
    return best


def misfit_of(found: Beginning | Inapplicable) -> float:
    """Return the misfit of a beginning, infinite if there is none."""
    return math.inf if isinstance(found, Inapplicable) else found.misfit
