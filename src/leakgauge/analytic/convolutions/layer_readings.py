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

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.layer_spans import Spanned, span_of_inputs
from leakgauge.analytic.convolutions.network import Convolution, Network, arguments_of
from leakgauge.analytic.convolutions.operations import name_of
from leakgauge.analytic.convolutions.problem import Problem, is_nonnegative
from leakgauge.analytic.convolutions.propagation import is_relu, is_steady_norm
from leakgauge.analytic.convolutions.scaling import FITS
from leakgauge.analytic.convolutions.shift_scale import shift_behind, signals_of
from leakgauge.analytic.convolutions.span_beginning import examples_of, few_told_apart
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


@dataclass(frozen=True, eq=False)
class Group:
    """The channels of one group of a convolution, or all of them.

    Args:
        layer: The convolution.
        number: Number of the group.
    """

    layer: Convolution
    number: int

    @property
    def inputs(self) -> slice:
        """The input channels."""
        size = self.layer.channels // self.layer.groups
        return slice(self.number * size, (self.number + 1) * size)

    @property
    def outputs(self) -> slice:
        """The output channels."""
        size = len(self.layer.weight) // self.layer.groups
        return slice(self.number * size, (self.number + 1) * size)


class NotApart(Inapplicable):
    """The reason why the examples of a known span were not told apart."""


@dataclass(frozen=True, eq=False)
class _Part:
    """What one group tells: inputs (B, C, N), signals (B, O, P), their error, the span, and the misfit of the shift."""

    values: Tensor
    signals: Tensor
    error: float
    spanned: Spanned
    misfit: float


def read_layer(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> Reading | Inapplicable:
    """Return input and signal of a convolution, or the reason why its gradient does not tell them.

    Args:
        problem: The gradient.
        layer: The convolution. With groups, the batch must hold one example.
        generator: Source of the starts.
    """
    name, count, parts = layer.name, problem.count, list[_Part]()
    for number in range(layer.groups):
        part = _read_group(problem, Group(layer, number), generator)
        if isinstance(part, Inapplicable):
            inside = f", group {number}" if layer.groups > 1 else ""
            return replace(part, reason=f"{name}{inside}: {part.reason}")
        parts.append(part)
    values = torch.cat([part.values for part in parts], 1)
    signals = torch.cat([part.signals for part in parts], 1)
    least = min(parts, key=lambda part: part.spanned.gap).spanned
    note = (
        f"input of {name!r}: the span of {count} was found by {least.way} (gap {least.gap:.0e}); "
        f"the shift beside it fits to {max(part.misfit for part in parts):.0e}"
    )
    return Reading(
        layer,
        values.reshape(count, *layer.source.meta["val"].shape[1:]),
        signals.reshape(count, *layer.node.meta["val"].shape[1:]),
        max(part.error for part in parts),
        note,
    )


def _read_group(problem: Problem, group: Group, generator: torch.Generator) -> _Part | Inapplicable:
    """Return input and signal of one group of channels, or the reason why the gradient does not tell them."""
    layer, count = group.layer, problem.count
    dweight = problem.gradients[layer.name][group.outputs]
    spanned = span_of_inputs(
        dweight,
        layer.geometry,
        count,
        error=problem.error,
        generator=generator,
        beat=problem.beat,
    )
    if isinstance(spanned, Inapplicable):
        return spanned
    examples = examples_of(problem, layer.source, spanned.basis, generator=generator)
    if len(examples.values) < count:
        return NotApart(
            f"the span of {count} was found by {spanned.way}, and {few_told_apart(examples, count)}"
        )
    signals = signals_of(dweight, examples.values, layer)
    scaled = scales_by_shifts(problem, group, examples.values, signals)
    if isinstance(scaled, Inapplicable):
        return scaled
    scales, misfit = scaled
    wide = scales[:, None, None]
    error = max(float(examples.excursion.max()), 1e-9)
    return _Part(examples.values * wide, signals / wide, error, spanned, misfit)


def scales_by_shifts(
    problem: Problem, group: Group, values: Tensor, signals: Tensor
) -> tuple[Tensor, float] | Inapplicable:
    """Return the scales (B,) of inputs, and the relative misfit of the shifts' gradients, or why none fit.

    Args:
        problem: The gradient.
        group: The channels of the convolution.
        values: Inputs (B, C, N) of scale 1.
        signals: Signals (B, O, P) that belong to them.
    """
    layer, columns, rights = group.layer, list[Tensor](), list[Tensor]()
    behind = shift_behind(problem.network, layer)
    if behind is not None and behind.name in problem.gradients:
        columns.append(signals.sum(2).T)
        rights.append((problem.gradients[behind.name] * behind.factor)[group.outputs])
    front = shift_in_front(problem.network, layer.source)
    if front is not None and front in problem.gradients:
        weight = layer.weight[group.outputs].flatten(2)
        back = torch.einsum("bop,ock->bcpk", signals, weight)
        columns.append((layer.geometry.fold(back) * (values > 0)).sum(2).T)
        rights.append(problem.gradients[front][group.inputs])
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
