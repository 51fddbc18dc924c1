r"""The descent through a network whose layers read several earlier outputs at once.

A layer's input may be known in a part of its channels only, as behind a concatenation. Where these alone
have linearly independent patches, its gradient tells the signal at its output:

.. math::

    dW[:, c] = \Delta V[:, c] \quad \text{for known channels } c

With the signal, the same gradient is linear in the channels that are not known. Layers whose signal is
not known yet are passed over, and tried again when more is known.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.descent import Descent, Step
from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.inputs import solve_input
from leakgauge.analytic.convolutions.intervals import Intervals, parts_of
from leakgauge.analytic.convolutions.layer_readings import Group
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.operations import name_of
from leakgauge.analytic.convolutions.problem import Beginning, Problem
from leakgauge.analytic.convolutions.propagation import is_relu
from leakgauge.analytic.convolutions.scaling import slopes_of
from leakgauge.analytic.convolutions.several_inputs import complete, label
from leakgauge.core import Inapplicable

INDEPENDENT = 1e-4
"""Singular value of known patches, relative to the largest, above which they are independent."""
EXPLAINED = 1e-4
"""Relative misfit of a gradient's known channels up to which the signal that they tell is believed."""
FITS = 1e-3
"""Relative misfit of a layer's gradient below which its input is believed. Signals from inputs amplify errors."""
LARGEST = 2048
"""Largest number of positions of the batch for which a signal is read from an input."""


@dataclass(eq=False)
class JointDescent(Descent):
    """A descent that passes over layers whose signal is not known, and reads signals from known inputs.

    Args:
        problem: The gradient, with that of the last layer.
        labels: Class indices (B,), or empty if the features are not known.
        bounds: Bounds on all nodes.
    """

    fits: float = FITS
    problem: Problem | None = None
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    bounds: Intervals | None = None

    def run(self) -> None:
        """Read inputs and signals of layers, as long as they are determined."""
        done, blocked = set[fx.Node](), dict[fx.Node, str]()
        advanced = True
        while advanced:
            advanced = False
            self._complete()
            for source, layers in self.groups():
                if source in done:
                    continue
                step = self._attempted(source, layers)
                if isinstance(step, Inapplicable):
                    blocked[source] = step.reason
                    continue
                done.add(source)
                if step.misfit > self._fits(step.layers):
                    names = ", ".join(step.layers)
                    blocked[source] = f"{names}: the gradient fits to {step.misfit:.0e} only"
                    continue
                blocked.pop(source, None)
                self._accept(source, layers, step)
                advanced = True
        reasons = [r for r in blocked.values() if "signal" not in r] or list(blocked.values())
        self.stopped = reasons[0] if reasons else ""

    def _complete(self) -> None:
        """Add what bounds determine. Known features tell labels, and so the signals of all layers."""
        problem = self.problem
        assert problem is not None, "expected the gradient of the last layer"
        self.bounds = complete(self.known, problem.features)
        features = self.known.value(problem.features)
        if features is None or len(self.labels):
            return
        features = features.flatten(1)
        labels, misfit = label(problem, features)
        if misfit <= self.fits:
            self.labels = labels
            slopes = slopes_of(problem.head.layer, problem.head.link, features, labels)
            # Signals from above are surer than those that a layer's own gradient told.
            self.known.signals = {problem.features: problem.signal(slopes)}

    def _attempted(self, source: fx.Node, layers: Sequence[Convolution]) -> Step | Inapplicable:
        """Check or read the input of layers, with the signals that known inputs tell."""
        self._look_up(layers)
        for layer in layers:
            if layer.groups == 1 and self.known.signal(layer.node) is None:
                signal = self._signal_from_input(layer)
                if signal is not None:
                    self.known.signals[layer.node] = signal
        value = self.known.value(source)
        if all(layer.groups > 1 for layer in layers):
            return self._read_groups(source, layers[0], value)
        if value is None:
            return self._read(source, layers)
        step = self._check(source, layers, value)
        if (
            isinstance(step, Inapplicable)
            or not len(self.labels)
            or source not in self.known.values
        ):
            return step
        return self._refined(source, layers, step)

    def _refined(self, source: fx.Node, layers: Sequence[Convolution], step: Step) -> Step:
        """Return the step with a surer value of a known input, from signals that the last layer tells.

        Its zeros stay, since they were decided with the masks that fit.
        """
        self.beat()
        _, solved = self._attempt(source, layers)
        if isinstance(solved, Inapplicable) or solved.misfit > step.misfit:
            return step
        value = self.known.values[source]
        found = solved.inputs.reshape(value.shape)
        self.known.values[source] = torch.where(value == 0, 0, found) if is_relu(source) else found
        return replace(step, misfit=solved.misfit)

    def _read_groups(
        self, source: fx.Node, layer: Convolution, value: Tensor | None
    ) -> Step | Inapplicable:
        """Read the input of a layer with groups, or check a known one. Each group has equations of its own."""
        signal = self.known.signal(layer.node)
        if signal is None:
            return Inapplicable(f"{layer.name}: the signal at its output is not known")
        found, gaps, sizes, counts = list[Tensor](), list[Tensor](), list[Tensor](), (0, 0)
        for group in (Group(layer, number) for number in range(layer.groups)):
            self.beat()
            sent = signal.flatten(2)[:, group.outputs]
            marks = torch.ones_like(sent, dtype=torch.bool)
            dweight = self.gradients[layer.name][group.outputs].flatten(2)
            gradient = GradientOf(layer.geometry, dweight, sent, marks, ~marks)
            if value is None:
                solved = solve_input([gradient])
                if isinstance(solved, Inapplicable):
                    return Inapplicable(f"{layer.name}, group {group.number}: {solved.reason}")
                found.append(solved.inputs)
                counts = (solved.equations, solved.unknowns)
            else:
                found.append(value.flatten(2)[:, group.inputs])
            gaps.append(gradient.gap(found[-1]).norm())
            sizes.append(dweight.norm())
        misfit = float(torch.stack(gaps).norm() / torch.stack(sizes).norm())
        if value is None and misfit <= self._fits([layer.name]):
            shape = source.meta["val"].shape[1:]
            self.known.learn(source, torch.cat(found, 1).reshape(-1, *shape), error=self.error)
        return Step((layer.name,), source, misfit, *counts, 0)

    def _accept(self, source: fx.Node, layers: Sequence[Convolution], step: Step) -> None:
        """Keep a step, and what it tells of the parts of a concatenation."""
        self.steps.append(step)
        self._keep(layers)
        for layer in layers:
            self.known.settle(layer.node)
        if step.unknowns:
            self._split(source)

    def _split(self, source: fx.Node) -> None:
        """Replace the value of a concatenation by those of its parts, each without the errors of its zeros."""
        parts = parts_of(source) if name_of(source) == "cat" else None
        if parts is None:
            return
        value = self.known.values.pop(source)
        pieces = torch.split(value, [part.meta["val"].shape[1] for part in parts], 1)
        for part, piece in zip(parts, pieces, strict=True):
            if self.known.value(part) is None:
                self.known.learn(part, piece, error=self.error)
                self._split(part)

    def _signal_from_input(self, layer: Convolution) -> Tensor | None:
        """Return the signal `(B, O, ...)` at a layer's output that its known input channels tell, or None."""
        positions = self.known.count * layer.geometry.positions
        if positions > LARGEST:
            return None
        entries = None if self.bounds is None else self.bounds.found.get(layer.source)
        if entries is None:
            return None
        channels = entries.known.flatten(2).all(2).all(0)
        if int(channels.sum()) * layer.geometry.taps < positions:
            return None
        self.beat()
        inputs = entries.value.flatten(2)[:, channels]
        patches = layer.geometry.unfold(inputs).movedim(1, 2).flatten(2).flatten(0, 1)
        aim = self.gradients[layer.name].flatten(2)[:, channels].flatten(1)
        left, sizes, right = torch.linalg.svd(patches, full_matrices=False)
        if float(sizes[-1]) < INDEPENDENT * float(sizes[0]):
            return None
        signal = ((aim @ right.T) / sizes) @ left.T  # (O, B P)
        if float((signal @ patches - aim).norm()) > EXPLAINED * float(aim.norm()):
            return None
        shape = (self.known.count, *layer.node.meta["val"].shape[1:])
        found: Tensor = signal.T.unflatten(0, (self.known.count, -1)).movedim(2, 1).reshape(shape)
        return found


def told_labels(problem: Problem, begun: Beginning, descent: Descent, inputs: Tensor) -> Tensor:
    """Return the labels (B,) of a batch: those that are known, or those that the features of inputs tell.

    Args:
        problem: The gradient.
        begun: The beginning of the descent.
        descent: The descent.
        inputs: The reconstructed inputs `(B, C, ...)`.
    """
    labels = descent.labels if isinstance(descent, JointDescent) else begun.labels
    if len(labels):
        return labels
    network = problem.network
    with torch.no_grad():
        found = network.evaluate([problem.features], {network.entry: inputs.double()})
    return label(problem, found[problem.features].flatten(1))[0]
