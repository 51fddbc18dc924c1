"""Where a descent through a network can begin: features of each example, their labels and signals.

There are two ways:

- *span*: the inputs of a convolution from the row space of its gradient. It must have as many output
  channels as the batch has positions, and everything behind it must depend on this input alone.
- *masks*: the input of the last convolution in front of a mean over positions. The head tells the
  signal of each channel, up to a mask of bits.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_descent import BatchDescent
from leakgauge.analytic.convolutions.batch_masks import separate_masks
from leakgauge.analytic.convolutions.batch_norm import BatchPropagation, mixes, norm_behind
from leakgauge.analytic.convolutions.binary_masks import MaskedInputs, recover_masks
from leakgauge.analytic.convolutions.counting import Reader
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.examples import Examples, separate
from leakgauge.analytic.convolutions.network import Convolution, Network, arguments_of
from leakgauge.analytic.convolutions.operations import name_of, root_of
from leakgauge.analytic.convolutions.pooled_head import (
    ActiveCounts,
    count_active,
    read_pooled_head,
)
from leakgauge.analytic.convolutions.propagation import (
    Propagation,
    is_relu,
    is_steady_norm,
)
from leakgauge.analytic.convolutions.relative_scales import relative_scales
from leakgauge.analytic.convolutions.repairs import relu_behind
from leakgauge.analytic.convolutions.scaling import FITS, Scaled, scale_and_label, slopes_of
from leakgauge.analytic.convolutions.shift_scale import ShiftScaling, shift_behind
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, row_space, span_of
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.analytic.softmax_unmixing import unmix
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

CONSISTENT = 1e-5
"""Largest defect of a span that is believed."""
GAP = 100.0
"""Least ratio of the first defect behind the span to the last one inside it."""
RESCALED = 4
"""Number of times that the scale of an input is corrected if only the layers below tell it."""
LINEAR_LAYERS = frozenset(("addmm", "mm", "linear"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Outline:
    """What decides by counting whether a descent can begin.

    Args:
        network: The network.
        gradients: The gradients of the parameters by name, in float64, of the same mean loss as that
            of the head. For counting alone, any nonzero tensors.
        features: The node of the last layer's input.
        count: Batch size B.
    """

    network: Network
    gradients: Mapping[str, Tensor]
    features: fx.Node
    count: int

    def candidates(self) -> Iterator[tuple[Convolution, Inapplicable | None]]:
        """Yield the convolutions, the earliest first, each with the reason why its span tells nothing."""
        for layer in self.network.convolutions:
            if layer.name in self.gradients:
                yield layer, self._refusal(layer)

    def _refusal(self, layer: Convolution) -> Inapplicable | None:
        """Return why the span of a layer cannot start a descent, or None."""
        shared = int(norm_behind(self.network, layer.node) is not None)
        outputs = len(layer.weight)
        reader = Reader(layer.geometry, layer.channels, outputs, layer.groups, shared=shared)
        if layer.groups > 1:
            return Inapplicable(f"{layer.name}: it has {layer.groups} groups")
        if reader.span() < self.count:
            reason = reader.reason() or f"its span holds {reader.span()} examples, not {self.count}"
            return Inapplicable(f"{layer.name}: {reason}")
        if not self.network.cuts_off([layer.source]):
            return Inapplicable(f"{layer.name}: a shortcut bypasses it")
        if self.count > 1 and not is_nonnegative(layer.source):
            return Inapplicable(f"{layer.name}: no ReLU makes its input sparse")
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Outline):
    """One gradient of a network with convolutions.

    Args:
        head: The last layer and its gradient.
        error: Relative rounding error of the update.
        unit: Factor from the shared gradients to these.
        beat: Called at least every few seconds of a search.
    """

    head: HeadGradient
    error: float
    beat: Beat = quiet
    unit: float = 1.0

    def signal(self, slopes: Tensor) -> Tensor:
        """Return the signal at the features, from the loss's derivatives (B, K) at the last layer's outputs."""
        signal = slopes @ self.head.layer.weight
        return signal.reshape(len(slopes), *self.features.meta["val"].shape[1:])

    def propagation(self) -> Propagation:
        """Return the propagation of values and signals that fits the network, with nothing known."""
        if mixes(self.network):
            return BatchPropagation(self.network, self.count, gradients=self.gradients)
        return Propagation(self.network, self.count)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What is known before the descent.

    Args:
        known: Values, masks and signals of nodes.
        labels: Class indices (B,), in the order of the values.
        error: Relative error of the values.
        note: What was read, in one line.
        misfit: Relative misfit of the last layer's gradient.
    """

    known: Propagation
    labels: Tensor
    error: float
    note: str
    misfit: float = 0.0


def is_nonnegative(node: fx.Node) -> bool:
    """Return whether a node is a ReLU, or pools one."""
    if name_of(node) == "getitem" or name_of(node).startswith(("max_pool", "avg_pool")):
        return is_nonnegative(node.all_input_nodes[0])
    return is_relu(node)


def features_node(network: Network, weight: str) -> fx.Node | None:
    """Return the node of the input of the linear layer with this weight, or None."""
    for node in network.graph.nodes:
        if node not in network.used or name_of(node) not in LINEAR_LAYERS:
            continue
        sources = node.all_input_nodes
        fixed = {each for each in sources if each not in network.varying}
        names = {network.names.get(each) for each in fixed}
        names |= {
            network.names.get(each.all_input_nodes[0]) for each in fixed if each.all_input_nodes
        }
        varying: list[fx.Node] = [each for each in sources if each in network.varying]
        if weight in names and len(varying) == 1:
            return varying[0]
    return None


def why_none_begins(problem: Problem) -> str | None:
    """Return why counting alone shows that there is no beginning, in one line, or None."""
    refusals = [refusal for _, refusal in problem.candidates()]
    if any(refusal is None for refusal in refusals):
        return None
    block = last_block(problem)
    if isinstance(block, LastBlock):
        return None
    counted = refusals[-1].reason if refusals and refusals[-1] else "no convolution has a gradient"
    return f"{counted}; and by a pooled head: {block.reason}"


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
    by_masks = begin_by_masks(problem, generator=generator)
    if isinstance(by_masks, Beginning):
        return by_masks
    last = reasons[-1] if reasons else "no convolution has a gradient"
    return Inapplicable(f"{last}; and by a pooled head: {by_masks.reason}")


def begin_by_span(
    problem: Problem, layer: Convolution, *, generator: torch.Generator
) -> Beginning | Inapplicable:
    """Return the beginning at one convolution's input, or the reason why it is not known."""
    count, name = problem.count, layer.name
    problem.beat()
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
    if is_nonnegative(layer.source):
        examples = separate(span.basis, count, generator=generator, beat=problem.beat)
    else:
        none = torch.zeros(1, dtype=torch.float64)
        examples = Examples(span.basis, none, none)
    if len(examples.values) < count:
        return Inapplicable(
            f"{name}: {len(examples.values)} of {count} examples were told apart "
            "(equal or proportional ones cannot be)"
        )
    begun = _with_scales(problem, layer, space, examples)
    if isinstance(begun, Inapplicable):
        return Inapplicable(f"{name}: {begun.reason}")
    examples, scaled = begun
    value = (examples.values * scaled.scales[:, None, None]).reshape(
        count, *layer.source.meta["val"].shape[1:]
    )
    error = max(float(examples.excursion.max()), 1e-9)
    known = behind(problem, layer.source, value, scaled, error)
    if isinstance(known, Inapplicable):
        return Inapplicable(f"{name}: {known.reason}")
    note = (
        f"input of {name!r}: the span of {count} was found (gap {span.gap:.0e}); the last layer fits to "
        f"{scaled.misfit:.0e}{scaled.said}"
    )
    return Beginning(known, scaled.labels, error, note, scaled.misfit)


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


def _with_scales(
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


def descent_of(problem: Problem, found: Beginning, beat: Beat) -> Descent:
    """Return the descent from a beginning."""
    if isinstance(found.known, BatchPropagation):
        return BatchDescent(found.known, problem.gradients, error=found.error, beat=beat)
    return Descent(found.known, problem.gradients, error=found.error, beat=beat)


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
    known = Propagation(problem.network, count)
    shape = layer.source.meta["val"].shape[1:]
    known.learn(layer.source, found.inputs.reshape(count, *shape), error=problem.error)
    known.masks[block.relu] = found.masks.reshape(count, *block.relu.meta["val"].shape[1:])
    known.doubts[block.relu] = torch.zeros_like(known.masks[block.relu])
    known.signals[problem.features] = problem.signal(slopes)
    note = f"input of {layer.name!r}: masks behind it explain its gradient to {found.residual:.0e}"
    return Beginning(known, labels, max(found.residual, 1e-9), note)


def last_block(problem: Outline) -> LastBlock | Inapplicable:
    """Return the end of the network if it has the form of a block with a pooled head."""
    network, gradients = problem.network, problem.gradients
    pooled = root_of(problem.features)
    if not name_of(pooled).startswith(("mean", "_adaptive_avg_pool", "avg_pool")):
        return Inapplicable("the features of the last layer are not means over positions")
    relu = pooled.all_input_nodes[0]
    if math.prod(pooled.meta["val"].shape[1:]) != relu.meta["val"].shape[1] or not is_relu(relu):
        return Inapplicable(
            "the features of the last layer are not means of a ReLU over all positions"
        )
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
    return Inapplicable("no convolution with a trained BatchNorm in eval mode ends the network")


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
