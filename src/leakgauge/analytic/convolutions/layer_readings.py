r"""Input and signal of one convolution, from gradients of its weight and of a shift beside it alone.

The span of the inputs tells each example up to its scale :math:`t_b`. A shift that is added to all positions
tells the scales, since its gradient is a sum of signals, which are linear in :math:`1 / t_b`:

- *behind*: the bias of the convolution, or the shift of the normalization behind it;
- *in front*: the shift in front of the ReLU whose output the convolution reads. The signal there is that of
  the transposed convolution, where the ReLU is open.

No layer above enters, so any layer can be read, wherever its output goes.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.examples import Examples, separate
from leakgauge.analytic.convolutions.layer_spans import span_of_inputs
from leakgauge.analytic.convolutions.network import Convolution, Network, arguments_of
from leakgauge.analytic.convolutions.operations import name_of
from leakgauge.analytic.convolutions.problem import Problem, is_nonnegative
from leakgauge.analytic.convolutions.propagation import is_relu, is_steady_norm
from leakgauge.analytic.convolutions.scaling import FITS
from leakgauge.analytic.convolutions.shift_scale import shift_behind, signals_of
from leakgauge.core import Inapplicable


@dataclass(frozen=True, eq=False)
class Reading:
    """Input and signal of one convolution.

    Args:
        layer: The convolution.
        value: Its input `(B, C, ...)`.
        signal: The signal `(B, O, ...)` at its output.
        error: Largest error of the input, relative to its largest entry.
        note: How it was read, in one line.
    """

    layer: Convolution
    value: Tensor
    signal: Tensor
    error: float
    note: str


def read_layer(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> Reading | Inapplicable:
    """Return input and signal of a convolution, or the reason why its gradient does not tell them.

    Args:
        problem: The gradient.
        layer: The convolution.
        generator: Source of the starts.
    """
    name, count, dweight = layer.name, problem.count, problem.gradients[layer.name]
    spanned = span_of_inputs(
        dweight,
        layer.geometry,
        count,
        error=problem.error,
        generator=generator,
        beat=problem.beat,
    )
    if isinstance(spanned, Inapplicable):
        return Inapplicable(f"{name}: {spanned.reason}")
    if is_nonnegative(layer.source):
        examples = separate(spanned.basis, count, generator=generator, beat=problem.beat)
    else:
        none = torch.zeros(1, dtype=torch.float64)
        examples = Examples(spanned.basis, none, none)
    if len(examples.values) < count:
        return Inapplicable(f"{name}: {len(examples.values)} of {count} examples were told apart")
    signals = signals_of(dweight, examples.values, layer)
    scaled = scales_by_shifts(problem, layer, examples.values, signals)
    if isinstance(scaled, Inapplicable):
        return Inapplicable(f"{name}: {scaled.reason}")
    scales, misfit = scaled
    wide = scales[:, None, None]
    error = max(float(examples.excursion.max()), 1e-9)
    value = (examples.values * wide).reshape(count, *layer.source.meta["val"].shape[1:])
    signal = (signals / wide).reshape(count, *layer.node.meta["val"].shape[1:])
    note = (
        f"input of {name!r}: the span of {count} was found by {spanned.way} (gap {spanned.gap:.0e}); "
        f"the shift beside it fits to {misfit:.0e}"
    )
    return Reading(layer, value, signal, error, note)


def scales_by_shifts(
    problem: Problem, layer: Convolution, values: Tensor, signals: Tensor
) -> tuple[Tensor, float] | Inapplicable:
    """Return the scales (B,) of inputs, and the relative misfit of the shifts' gradients, or why none fit.

    Args:
        problem: The gradient.
        layer: The convolution.
        values: Inputs (B, C, N) of scale 1.
        signals: Signals (B, O, P) that belong to them.
    """
    columns, rights = list[Tensor](), list[Tensor]()
    behind = shift_behind(problem.network, layer)
    if behind is not None and behind.name in problem.gradients:
        columns.append(signals.sum(2).T)
        rights.append(problem.gradients[behind.name] * behind.factor)
    front = shift_in_front(problem.network, layer.source)
    if front is not None and front in problem.gradients:
        back = torch.einsum("bop,ock->bcpk", signals, layer.weight.flatten(2))
        columns.append((layer.geometry.fold(back) * (values > 0)).sum(2).T)
        rights.append(problem.gradients[front])
    if not columns:
        return Inapplicable("no shift beside it tells the scales of its inputs")
    # Each of the two has its own size.
    sizes = [right.norm().clamp_min(torch.finfo(torch.float64).tiny) for right in rights]
    matrix = torch.cat([c / size for c, size in zip(columns, sizes, strict=True)])
    right = torch.cat([r / size for r, size in zip(rights, sizes, strict=True)])
    inverse = torch.linalg.lstsq(matrix, right[:, None], driver="gelsd").solution[:, 0]
    misfit = float((matrix @ inverse - right).norm() / right.norm())
    scales = 1 / inverse
    bad = not bool(scales.isfinite().all())
    if misfit > FITS or bad or (is_nonnegative(layer.source) and float(scales.min()) <= 0):
        return Inapplicable(
            f"no scales of its inputs fit the shift beside it (misfit {misfit:.0e})"
        )
    return scales, misfit


def shift_in_front(network: Network, source: fx.Node) -> str | None:
    """Return the name of the shift in front of a ReLU that one layer alone reads, or None."""
    if not is_relu(source) or len(network.users(source)) != 1:
        return None
    before = source.all_input_nodes[0]
    if len(network.users(before)) != 1:
        return None
    if name_of(before) == "getitem":
        before = before.all_input_nodes[0]
    if is_steady_norm(before):
        return network.names.get(arguments_of(before)[2])
    if name_of(before) == "convolution":
        return network.names.get(arguments_of(before)[2])
    return None
