r"""The span of one convolution's inputs, from the gradient of its weight, by either of its two factors.

The gradient is :math:`dW = \Delta V`. Patches of inputs overlap, and so do patches of signals: the
equations :math:`dW[o, k, c] = \sum_n \delta[o, n - k] \, u[c, n]` are the same with both exchanged.

- *rows*: with as many output channels as positions, all patches of inputs lie in the row space.
- *columns*: with as many input channels as places, all patches of signals lie in the column space. Signals
  that span it leave linear equations for the inputs.

Layers that read a concatenation of earlier outputs have many input and few output channels.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.counting import Reader
from leakgauge.analytic.convolutions.equations import GradientOf, from_columns
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, Span, row_space, span_of
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

CONSISTENT = 1e-5
"""Largest defect of a span that is believed."""
GAP = 100.0
"""Least ratio of the first defect behind the span to the last one inside it."""


@dataclass(frozen=True, eq=False)
class Spanned:
    """The inputs of one convolution, up to their linear combinations.

    Args:
        basis: Orthonormal rows (B, C, N).
        gap: Ratio of the first defect behind the span to the last one inside it.
        way: "rows" or "columns".
    """

    basis: Tensor
    gap: float
    way: str


def exchanged(geometry: Geometry) -> Geometry:
    """Return the geometry with input and output exchanged: the positions that read each place, tap by tap.

    Example:
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> from leakgauge.analytic.convolutions.layer_spans import exchanged
        >>> geometry = geometry_of((8, 8), kernel=(3, 3), stride=2, padding=1)
        >>> exchanged(geometry).positions, exchanged(geometry).places
        (64, 16)
    """
    places, positions, taps = geometry.places, geometry.positions, geometry.taps
    sees = torch.full((places + 1, taps), positions)
    for tap in range(taps):
        # The places that one tap reads are distinct, but for the padding.
        sees[geometry.sees[:, tap], tap] = torch.arange(positions)
    return Geometry(sees[:places], positions, geometry.output, geometry.size, geometry.kernel)


def most_by_rows(geometry: Geometry, inputs: int, outputs: int) -> int:
    """Return the largest batch whose inputs the row space determines by count, from numbers of channels."""
    return Reader(geometry, inputs, outputs).span()


def most_by_columns(geometry: Geometry, inputs: int, outputs: int) -> int:
    """Return the largest batch whose signals the column space determines by count."""
    return Reader(exchanged(geometry), outputs, inputs).span()


def span_of_inputs(
    dweight: Tensor,
    geometry: Geometry,
    count: int,
    *,
    error: float,
    generator: torch.Generator,
    beat: Beat = quiet,
) -> Spanned | Inapplicable:
    """Return the span of a convolution's inputs, or the reason why its gradient does not tell it.

    Args:
        dweight: The gradient `(O, C, *kernel)`.
        geometry: The places that the convolution reads.
        count: Batch size B.
        error: Relative error of the gradient's entries.
        generator: Source of the starts.
        beat: Called in each sweep of the eigensolver.
    """
    outputs, inputs = dweight.shape[:2]
    reason = Inapplicable(
        f"{outputs} output channels for {count * geometry.positions} positions, "
        f"and {inputs} input channels for {count * geometry.places} places"
    )
    if most_by_rows(geometry, inputs, outputs) >= count:
        found = _span(dweight, geometry, count, error, generator, beat)
        if isinstance(found, Span):
            return Spanned(found.basis, found.gap, "rows")
        reason = found
    if most_by_columns(geometry, inputs, outputs) >= count:
        turned, other = dweight.transpose(0, 1), exchanged(geometry)
        signals = _span(turned, other, count, error, generator, beat)
        if isinstance(signals, Span):
            basis = _inputs_behind(dweight, geometry, signals.basis)
            return Spanned(basis, signals.gap, "columns")
        reason = signals
    return reason


def _span(
    dweight: Tensor,
    geometry: Geometry,
    count: int,
    error: float,
    generator: torch.Generator,
    beat: Beat,
) -> Span | Inapplicable:
    """Return the vectors whose patches lie in the row space of a gradient, or why these are not `count`."""
    space, wanted = row_space(dweight, error=error), count * geometry.positions
    if space.rank < wanted:
        return Inapplicable(f"its gradient has rank {space.rank} for {wanted} positions")
    space = RowSpace(space.basis[:wanted], wanted, space.floor)
    operator = Consistency(space, geometry, dweight.shape[1])
    span = span_of(operator, count, generator=generator, beat=beat)
    if float(span.defects[count - 1]) > CONSISTENT or span.gap < GAP:
        return Inapplicable(
            f"its gradient does not hold exactly {count} inputs "
            f"(defects {span.defects[count - 1]:.0e}, and {span.defects[count]:.0e} for one more)"
        )
    return span


def _inputs_behind(dweight: Tensor, geometry: Geometry, signals: Tensor) -> Tensor:
    """Return the orthonormal span (B, C, N) of inputs that belong to a span of signals (B, O, P)."""
    everything = torch.ones_like(signals, dtype=torch.bool)
    gradient = GradientOf(geometry, dweight.flatten(2), signals, everything, ~everything)
    solution = torch.linalg.lstsq(gradient.matrix(), gradient.right, driver="gelsd").solution
    inputs = from_columns(solution, len(signals)).flatten(1)
    basis: Tensor = torch.linalg.qr(inputs.T)[0].T
    return basis.reshape(len(signals), dweight.shape[1], -1)
