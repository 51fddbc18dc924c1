"""The descent through a network with BatchNorm in train mode.

The signal in front of a BatchNorm depends on its statistics, and these on the input that is sought.
So each input is a fixed point: solve the linear equations with the present statistics, compute the
statistics of the solution, and repeat. The error falls by a factor of 3 to 20 in each step.

The equations do not tell the scale of the input, since BatchNorm removes it. The signals below fall
with this scale, and the gradient of the shift below tells their size.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import (
    BatchPropagation,
    blank_moments,
    is_batch_norm,
    norm_behind,
)
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.inputs import Solved, solve_input
from leakgauge.analytic.convolutions.lost_constants import Gauge, anchored, lost_classes
from leakgauge.analytic.convolutions.mask_sums import wrong_bits
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.operations import batch_norm_of, name_of
from leakgauge.analytic.convolutions.propagation import is_relu
from leakgauge.analytic.convolutions.repairs import relu_behind
from leakgauge.core import Inapplicable

MOST = 60
"""Largest number of steps to a fixed point."""
SAME = 1e-7
"""Relative change of the input at which the fixed point is reached."""
ROUGH = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Errors of the first steps. Values below this fraction of the largest count as 0."""
NO_SCALE = (
    "BatchNorm in train mode removes the scale of its input, and no trained shift in front tells it"
)
"""Why an input is not known although its equations are solved."""
FINE = 3e-5
"""The same for all later steps."""


@dataclass(eq=False)
class BatchDescent(Descent):
    """A descent through the convolutions of a network whose BatchNorms use the statistics of the batch."""

    known: BatchPropagation

    def with_scale(self, source: fx.Node) -> Tensor | Inapplicable:
        """Return the known value of a node, up to its scale, with the scale that the shift in front of it tells."""
        if self._shift_gradients(source) is None:
            return Inapplicable(NO_SCALE)
        layers = [each for each in self.known.network.convolutions if each.source is source]
        value = self.known.raw[source]
        inputs = self._rescaled(source, layers, value.flatten(2), self.error)
        return inputs.reshape(value.shape)

    def _gradients(self, layers: Sequence[Convolution]) -> list[tuple[Convolution, GradientOf]]:
        """Return the gradients of the layers whose signals are known."""
        found = []
        for layer in layers:
            norm = norm_behind(self.known.network, layer.node)
            relu = relu_behind(self.known.network, layer.node)
            if norm is None or relu is None or relu not in self.known.masks:
                found += super()._gradients([layer])
                continue
            behind, signal = self.known.signal(relu), self.known.signal(layer.node)
            if layer.groups != 1 or behind is None or signal is None:
                continue
            mask, doubts = self.known.masks[relu], self.known.doubts[relu]
            full = behind * self.known.slope(norm)
            parts = (t.flatten(2) for t in (full, mask, doubts, signal - full * mask))
            aim = self.gradients[layer.name].flatten(2)
            found.append((layer, GradientOf(layer.geometry, aim, *parts)))
        return found

    def _attempt(
        self, source: fx.Node, layers: Sequence[Convolution]
    ) -> tuple[list[tuple[Convolution, GradientOf]], Solved | Inapplicable]:
        """Return the layers with their gradients, and their input, with the present masks."""
        norms = {layer.node: norm_behind(self.known.network, layer.node) for layer in layers}
        if any(norm is None for norm in norms.values()):
            return super()._attempt(source, layers)
        for layer, norm in zip(layers, norms.values(), strict=True):
            if norm is not None and norm not in self.known.moments:
                shape = layer.node.meta["val"].shape[1:]
                self.known.moments[norm] = blank_moments(layer.weight, shape, self.known.count)
        if self._shift_gradients(source) is None and self.known.partial(source) is None:
            return [], Inapplicable(NO_SCALE)
        classes = lost_classes([layer.geometry for layer in layers])
        before = None
        for step in range(MOST):
            self.beat()
            pairs = self._gradients(layers)
            if not pairs:
                return pairs, Inapplicable("the signal at its output is not known")
            solved = self._solved_once(source, layers, pairs, classes, before)
            if isinstance(solved, Inapplicable):
                return pairs, solved
            rough = ROUGH[step] if step < len(ROUGH) else FINE
            inputs = anchored(solved.inputs, classes, rough)
            inputs = self._rescaled(source, layers, inputs, rough)
            solved = replace(solved, inputs=inputs)
            if before is not None and float((inputs - before).norm() / inputs.norm()) < SAME:
                break
            before = inputs
        return pairs, solved

    def _solved_once(
        self,
        source: fx.Node,
        layers: Sequence[Convolution],
        pairs: Sequence[tuple[Convolution, GradientOf]],
        classes: Sequence[Tensor],
        before: Tensor | None,
    ) -> Solved | Inapplicable:
        """Return the input with the present statistics."""
        gradients = [gradient for _, gradient in pairs]
        shape = (self.known.count, layers[0].channels, layers[0].geometry.places)
        held = gradients[0].full.new_zeros(shape) if before is None else before
        size = float(gradients[0].matrix().norm(dim=1).mean())
        gauges = [Gauge(classes, held, size)] if classes else []
        if before is None and self._is_blank(layers):
            # Outputs and entries need statistics, which no step has told yet.
            return solve_input(gradients, gauges=gauges, rough=True)
        return self._solve(source, layers, gradients, gauges)

    def _is_blank(self, layers: Sequence[Convolution]) -> bool:
        """Return whether nothing is known of the statistics behind layers."""
        norms = (norm_behind(self.known.network, layer.node) for layer in layers)
        return any(norm is not None and self.known.moments[norm].mean is None for norm in norms)

    def _rescaled(
        self, source: fx.Node, layers: Sequence[Convolution], inputs: Tensor, rough: float
    ) -> Tensor:
        """Return inputs (B, C, N) with the scale that the shifts below tell, and set the statistics behind them."""
        shape = (-1, *source.meta["val"].shape[1:])
        shifts = self._shift_gradients(source)
        outputs = self._outputs(source, layers, inputs.reshape(shape))
        self._estimate(layers, outputs, 1.0)
        if shifts is None:
            return inputs
        mask = self.known.shown(inputs.reshape(shape), rough)
        signal = self.known.signal(source)
        assert signal is not None, "expected known signals behind the layers"
        # A part of the signal falls with the scale. The other one comes through a shortcut.
        fixed = self.known.bypass(source, [layer.node for layer in layers])
        falling = ((signal - fixed) * mask).flatten(2).sum((0, 2))
        gap = shifts - (fixed * mask).flatten(2).sum((0, 2))
        factor = 1 / float(_median(gap / falling, falling.abs()).clamp(0.1, 10))
        self._estimate(layers, outputs, factor)
        return inputs * factor

    def _outputs(
        self, source: fx.Node, layers: Sequence[Convolution], value: Tensor
    ) -> list[Tensor]:
        """Return the outputs of layers without their biases."""
        nodes = [layer.node for layer in layers]
        with torch.no_grad():
            found = self.known.network.evaluate(nodes, {source: value})
        return [found[each.node] - (0 if each.bias is None else each.bias) for each in layers]

    def _estimate(
        self, layers: Sequence[Convolution], outputs: Sequence[Tensor], factor: float
    ) -> None:
        """Set the statistics behind layers, from their outputs times a factor."""
        for layer, output in zip(layers, outputs, strict=True):
            norm = norm_behind(self.known.network, layer.node)
            assert norm is not None, "expected BatchNorm behind the layer"
            bias = 0 if layer.bias is None else layer.bias
            self.known.estimate(norm, factor * output + bias)

    def _shift_gradients(self, source: fx.Node) -> Tensor | None:
        """Return the gradient (C,) of a shift that a ReLU directly follows, or None if there is none."""
        if not is_relu(source):
            return None
        (before,) = source.all_input_nodes
        for node in (before, *(before.all_input_nodes if name_of(before) == "add" else ())):
            norm = batch_norm_of(node)
            if norm is not None and is_batch_norm(norm):
                found = self.gradients.get(self.known.parameters(norm)[1] or "")
                if found is not None:
                    return found
        return None

    def _settled(self, source: fx.Node) -> None:
        """Correct the mask of an input that was read, by the gradient of the shift in front of it."""
        shifts, signal = self._shift_gradients(source), self.known.signal(source)
        if shifts is None or signal is None or source not in self.known.raw:
            return
        mask, value = self.known.masks[source], self.known.raw[source]
        parts = (signal.flatten(2), mask.flatten(2), value.abs().flatten(2), shifts)
        self.known.flip(source, wrong_bits(*parts).reshape(mask.shape))


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted median of values (n,)."""
    order = values.argsort()
    mass = weights[order].cumsum(0)
    return values[order][(mass >= mass[-1] / 2).nonzero()[0, 0]]
