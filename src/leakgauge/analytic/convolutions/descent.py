"""The descent through a network: from known features to the inputs of the layers below, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.inputs import Solved, solve_input
from leakgauge.analytic.convolutions.layer_equations import (
    gradient_equations,
    known_entries,
    output_equations,
)
from leakgauge.analytic.convolutions.lost_constants import Gauge
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.analytic.convolutions.repairs import (
    ROUNDED,
    SURE,
    Earlier,
    Explained,
    Repair,
    relu_behind,
)
from leakgauge.analytic.convolutions.update_error import UpdateError, least_sure
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

FITS = 3e-5
"""Relative misfit of a layer's gradient below which its input is believed, for an update in float32."""
NOISY = 2.0
"""Relative misfit of a layer's gradient below which its input is believed, in units of its known error."""
UNSURE = 0.03
"""Misfit up to which an input is used if gradients have errors. Its own error follows from the misfit."""
TRACED = 2
"""Number of earlier steps whose masks are searched for wrong bits, too."""
LARGEST = 0.3
"""Largest expected relative error of an input that is used."""
DOUBTED = 3.0
"""Sizes of values whose bits may be wrong, in units of the least size that is surely above 0."""


@dataclass(frozen=True, eq=False)
class Step:
    """One layer of the descent.

    Args:
        layers: Names of the weights whose common input was found or checked.
        source: The node of the input.
        misfit: Relative misfit of their gradients.
        equations: Number of gradient equations for each channel.
        unknowns: Number of unknowns for each channel.
        repaired: Number of bits that were flipped in the masks behind the layers.
    """

    layers: tuple[str, ...]
    source: fx.Node
    misfit: float
    equations: int
    unknowns: int
    repaired: int

    def fault(self) -> str:
        """Return why the input is not believed, if the misfit is too large."""
        names = ", ".join(self.layers)
        if math.isinf(self.misfit):
            return f"{names}: the gradient is 0"
        return (
            f"{names}: the gradient fits to {self.misfit:.0e} only, "
            f"with {self.equations} equations for {self.unknowns} unknowns of each channel"
        )


@dataclass(eq=False)
class Descent:
    """A descent through the convolutions of a network.

    Args:
        known: What is known of the nodes.
        gradients: Gradients of the weights by name, in float64, for the mean loss.
        error: Relative error of the known values.
        fits: Relative misfit of a layer's gradients up to which its input is believed.
        errors: The errors of the gradients, or None if they are rounded to float32.
        unsure: Expected relative error of each input that was read.
        steps: The layers that were read, from the output down.
        stopped: Why the descent ended.
        open: Gradient equations, with known signals, of inputs that they do not determine.
        beat: Called before each system of equations.
        earlier: What was known before the last steps, the last one first.
    """

    known: Propagation
    gradients: Mapping[str, Tensor]
    error: float
    fits: float = FITS
    errors: UpdateError | None = None
    unsure: dict[fx.Node, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    stopped: str = ""
    open: dict[fx.Node, list[GradientOf]] = field(default_factory=dict)
    beat: Beat = quiet
    earlier: list[Earlier] = field(default_factory=list)

    def run(self) -> None:
        """Read the inputs of the layers below, as long as they are determined."""
        done = {step.source for step in self.steps}
        for source, layers in self.groups():
            if source in done:
                continue
            self._look_up(layers)
            value = self.known.value(source)
            step = (
                self._check(source, layers, value)
                if value is not None
                else self._read(source, layers)
            )
            if isinstance(step, Inapplicable):
                self.stopped = step.reason
                return
            if self.errors is not None and source in self.known.values and value is not None:
                # With the signals known, least squares is surer than the span.
                again = self._read(source, layers)
                step = step if isinstance(again, Inapplicable) else again
            self.steps.append(step)
            self._keep(layers)
            for layer in layers:
                self.known.settle(layer.node)
            self._settled(source)
            if step.misfit > self._fits(step.layers):
                self.stopped = step.fault()
                return

    def _fits(self, names: Sequence[str]) -> float:
        """Return the relative misfit up to which the input of layers is believed."""
        if self.errors is None:
            return self.fits
        return max(self.fits, UNSURE, NOISY * self._noise(names))

    def _noise(self, names: Sequence[str]) -> float:
        """Return the relative error of layers' gradients that is known."""
        return 0.0 if self.errors is None else self.errors.relative(names)

    def _keep(self, layers: Sequence[Convolution]) -> None:
        """Keep what is known before the signals behind layers are settled."""
        relus = (relu_behind(self.known.network, layer.node) for layer in layers)
        known = Earlier([relu for relu in relus if relu is not None], dict(self.known.signals))
        self.earlier = [known, *self.earlier[: TRACED - 1]]

    def _settled(self, source: fx.Node) -> None:
        """Receive an input that was read or checked, with the signals behind it known."""

    def groups(self) -> list[tuple[fx.Node, list[Convolution]]]:
        """Return the convolutions by their common input, from the output down."""
        network = self.known.network
        places = {node: i for i, node in enumerate(network.graph.nodes)}
        groups: dict[fx.Node, list[Convolution]] = {}
        for convolution in network.convolutions:
            if convolution.name in self.gradients:
                groups.setdefault(convolution.source, []).append(convolution)
        return sorted(groups.items(), key=lambda pair: -places[pair[0]])

    def _look_up(self, layers: Sequence[Convolution]) -> None:
        """Set the masks behind layers whose values are known already."""
        for layer in layers:
            relu = relu_behind(self.known.network, layer.node)
            if relu is not None:
                self.known.look_up(relu, error=self.error)

    def _gradients(self, layers: Sequence[Convolution]) -> list[tuple[Convolution, GradientOf]]:
        """Return the gradients of the layers whose signals are known."""
        found = []
        for layer in layers:
            gradient = gradient_equations(self.known, layer, self.gradients[layer.name])
            if gradient is not None:
                found.append((layer, gradient))
        return found

    def _check(
        self, source: fx.Node, layers: Sequence[Convolution], value: Tensor
    ) -> Step | Inapplicable:
        """Check the gradients of layers with a known input, and repair the masks behind them."""
        inputs = value.flatten(2)

        def explain() -> Explained | Inapplicable:
            self.beat()
            pairs = self._gradients(layers)
            if not pairs:
                return Inapplicable("the signal at its output is not known")
            gap = torch.cat([g.gap(inputs) for _, g in pairs])
            right = torch.cat([g.right for _, g in pairs])
            misfit = float(gap.norm() / right.norm())
            return Explained(pairs, inputs, gap, None, misfit)

        names = tuple(layer.name for layer in layers)
        found = self._repair(explain, names)
        if isinstance(found, Inapplicable):
            return Inapplicable(f"{', '.join(names)}: {found.reason}")
        return Step(names, source, found[0].misfit, 0, 0, found[1])

    def _read(self, source: fx.Node, layers: Sequence[Convolution]) -> Step | Inapplicable:
        """Read the unknown input of layers, and repair the masks behind them."""
        names = tuple(layer.name for layer in layers)
        counts = (0, 0)

        def explain() -> Explained | Inapplicable:
            nonlocal counts
            self.beat()
            pairs, solved = self._attempt(source, layers)
            if isinstance(solved, Inapplicable):
                if pairs:
                    self.open[source] = [g for _, g in pairs]
                return solved
            counts = (solved.equations, solved.unknowns)
            return Explained(
                pairs, solved.inputs, solved.gap, solved.leverage, solved.misfit, solved
            )

        found = self._repair(explain, names)
        if isinstance(found, Inapplicable):
            return Inapplicable(f"{', '.join(names)}: {found.reason}")
        best, repaired = found
        if self.errors is not None and best.solved is not None and best.solved.error > LARGEST:
            return Inapplicable(
                f"{', '.join(names)}: errors of {self._noise(names):.0e} of the gradient leave its input "
                f"unsure (expected error {best.solved.error:.0e}, at most {LARGEST} is used)"
            )
        shape = source.meta["val"].shape[1:]
        surer = best.solved is None or best.solved.error < self.unsure.get(source, self.error)
        if best.misfit <= self._fits(names) and (surer or source not in self.known.values):
            self.known.learn(source, best.inputs.reshape(-1, *shape), error=self.error)
            if self.errors is not None and best.solved is not None:
                self._learn_unsure(source, best.solved)
        return Step(names, source, best.misfit, *counts, repaired)

    def _repair(
        self, explain: Callable[[], Explained | Inapplicable], names: Sequence[str]
    ) -> tuple[Explained, int] | Inapplicable:
        """Return the gradients with the masks behind them repaired, and the number of flipped bits."""
        noise = self._noise(names)
        # With known errors, many bits are unsure, and a misfit does not tell one.
        sure = SURE if self.errors is None else float("inf")
        return Repair(
            self.known, explain, least=max(ROUNDED, 1.1 * noise), sure=sure, earlier=self.earlier
        ).run()

    def _attempt(
        self, source: fx.Node, layers: Sequence[Convolution]
    ) -> tuple[list[tuple[Convolution, GradientOf]], Solved | Inapplicable]:
        """Return the layers with their gradients, and their input, with the present masks."""
        pairs = self._gradients(layers)
        if not pairs:
            return pairs, Inapplicable("the signal at its output is not known")
        return pairs, self._solve(source, layers, [g for _, g in pairs])

    def _learn_unsure(self, source: fx.Node, solved: Solved) -> None:
        """Add an input whose entries have expected errors. Values are set to 0 and bits doubted by them."""
        self.unsure[source] = solved.error
        if not is_relu(source):
            return
        value, shape = solved.inputs, self.known.values[source].shape
        size = value.square().mean().sqrt()
        least = size * (solved.deviation / size).double().apply_(least_sure).to(value)[:, None]
        mask = value > least
        self.known.masks[source] = mask.reshape(shape)
        self.known.doubts[source] = (value.abs() < DOUBTED * least).reshape(shape)
        self.known.values[source] = torch.where(mask, value, 0).reshape(shape)

    def _solve(
        self,
        source: fx.Node,
        layers: Sequence[Convolution],
        gradients: Sequence[GradientOf],
        gauges: Sequence[Gauge] = (),
    ) -> Solved | Inapplicable:
        """Return the input of layers, from all equations that are known."""
        outputs = output_equations(self.known, layers)
        shown = known_entries(self.known, source)
        return solve_input(gradients, shown, outputs, self.beat, gauges=gauges)
