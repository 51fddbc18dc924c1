r"""The image behind a max pool, from the pool's known outputs.

A max pool shows the largest value of each window, and not its place. Least squares on the maxima ends in
local minima, since a place that is wrong once stays wrong. Two facts tell more:

- no value exceeds the smallest output `u_q` of the windows that hold its place q. Where an output a is 0
  behind a ReLU, no value of its window is positive;
- only places with `u_q = a` can hold the maximum of a window. Overlapping windows leave few of them.

Let the pool's input be :math:`z_q(x) + \sigma \epsilon_q` with independent normal errors. With
:math:`t_q = (u_q - z_q) / \sigma`, the known outputs have the likelihood

.. math::

    \prod_q \Phi(t_q) \prod_w \sum_{q \in w, \, u_q = a_w} \frac{\phi(t_q)}{\sigma \, \Phi(t_q)}

A wide :math:`\sigma` leaves all places open, and a vanishing one restores the maximum. So the image follows
the likeliest one while :math:`\sigma` falls. Images are a priori sums of waves.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, fx
from torch.nn.functional import pad

from leakgauge.analytic.convolutions.gradient_below import GradientBelow
from leakgauge.analytic.convolutions.image import Minimum, minimize_each
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import POOLS, name_of
from leakgauge.analytic.convolutions.pool_windows import windows_of
from leakgauge.analytic.convolutions.propagation import is_relu
from leakgauge.analytic.convolutions.terms import Term
from leakgauge.analytic.convolutions.waves import OUTSIDE, Waves
from leakgauge.core.pulse import Beat, quiet

WIDTHS = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007)
"""Standard deviation of the errors, stage by stage, in units of the outputs' root mean square."""
REFINED = (0.05, 0.05, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01)
"""The same for the rounds in which the gradient of the convolution below tells image and places."""
SAME = 1e-4
"""Largest distance of two outputs, in the same units, that may show the same place."""
FAR = 1e3
"""Bound on a distance in units of its error, for the range of float32."""
VARIANCE = 1 / 16
"""Variance of the values of an image."""

Also = Callable[[Tensor], Tensor]
"""Map from images to a further misfit (n,)."""


@dataclass(frozen=True, eq=False)
class MaxPool:
    """A max pool in a network.

    Args:
        before: The node of its input, in front of a ReLU next to it.
        windows: Positions (W, Q) of each window. P stands for its padding.
        rectified: Whether a ReLU is next to it.
    """

    before: fx.Node
    windows: Tensor
    rectified: bool


def max_pool_at(node: fx.Node) -> MaxPool | None:
    """Return the max pool whose output a node is, perhaps behind a ReLU, or None if it is none."""
    rectified = is_relu(node)
    output = node.all_input_nodes[0] if rectified else node
    if name_of(output) != "getitem" or name_of(output.all_input_nodes[0]) not in POOLS:
        return None
    pool = output.all_input_nodes[0]
    windows, before = windows_of(pool), pool.all_input_nodes[0]
    if windows is None:
        return None
    if is_relu(before):
        rectified, before = True, before.all_input_nodes[0]
    return MaxPool(before, windows, rectified)


@dataclass(frozen=True, eq=False)
class PoolOutputs:
    """The known outputs of a max pool.

    Args:
        pool: The pool.
        value: Its outputs (B, C, W).
    """

    pool: MaxPool
    value: Tensor

    @cached_property
    def size(self) -> Tensor:
        """Root mean square (B, 1, 1) of the outputs of each example."""
        return self.value.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-30)

    @cached_property
    def shown(self) -> Tensor:
        """Marks (B, C, W) of outputs that are not the ReLU's 0."""
        if not self.pool.rectified:
            return torch.ones_like(self.value, dtype=torch.bool)
        return self.value > 0

    @cached_property
    def bounds(self) -> Tensor:
        """Largest value (B, C, P) that the outputs allow at each place."""
        windows, places = self.pool.windows, self.pool.before.meta["val"][0, 0].numel()
        bounds = self.value.new_full((*self.value.shape[:2], places + 1), torch.inf)
        for tap in range(windows.shape[1]):
            index = windows[:, tap].expand_as(self.value)
            bounds.scatter_reduce_(2, index, self.value, "amin")
        return bounds[..., :-1]

    @cached_property
    def open(self) -> Tensor:
        """Marks (B, C, W, Q) of the places that may hold the maximum of a window."""
        allowed = self.view(self.bounds, -torch.inf)
        same = allowed >= (self.value - SAME * self.size)[..., None]
        return same & self.shown[..., None]

    def view(self, values: Tensor, padding: float) -> Tensor:
        """Return values (B, C, P) of places for each window, as (B, C, W, Q)."""
        windows = self.pool.windows
        found = pad(values, (0, 1), value=padding).index_select(2, windows.flatten())
        return found.reshape(*values.shape[:2], *windows.shape)

    def to(self, which: Tensor, like: Tensor) -> PoolOutputs:
        """Return the outputs of some examples, by their indices, in the type of a tensor."""
        return PoolOutputs(self.pool, self.value[which].to(like))

    def misfit(self, values: Tensor, width: float) -> Tensor:
        """Return the negative logarithm (B,) of the likelihood, for values (B, C, P) of the pool's input.

        Args:
            values: The values.
            width: Standard deviation of their errors, in units of the outputs' root mean square.
        """
        far = ((self.bounds - values) / (width * self.size)).clamp(-FAR, FAR)
        below = torch.special.log_ndtr(far)
        each = self.view(-0.5 * far.square() - below, 0.0)
        best = each.masked_fill(~self.open, -FAR * FAR).logsumexp(-1)
        total: Tensor = below.sum((1, 2)) + (best * self.shown).sum((1, 2))
        return -total

    def places(self, values: Tensor, width: float) -> Tensor:
        """Return the probabilities (B, C, W, Q) of the places of the maxima, for values (B, C, P) with errors."""
        far = ((self.bounds - values) / (width * self.size)).clamp(-FAR, FAR)
        each = self.view(-0.5 * far.square() - torch.special.log_ndtr(far), 0.0)
        found: Tensor = each.masked_fill(~self.open, -FAR * FAR).softmax(-1)
        return found * self.shown[..., None]

    def equations(self, values: Tensor) -> Tensor:
        """Return the number (B,) of places that hold maxima, for values (B, C, P) of the pool's input."""
        best = self.view(values, -torch.inf).masked_fill(~self.open, -torch.inf).argmax(-1)
        index = self.pool.windows[torch.arange(best.shape[2]), best]
        marks = torch.zeros(*values.shape[:2], values.shape[2] + 1).to(values)
        marks.scatter_reduce_(2, index, self.shown.to(values), "amax")
        return marks[..., :-1].sum((1, 2)).long()


def pool_outputs(term: Term) -> PoolOutputs | None:
    """Return the known outputs of a max pool if a term holds them, or None."""
    if term.matrix is not None or term.weight.ndim > 1:
        return None
    pool = max_pool_at(term.node)
    return None if pool is None else PoolOutputs(pool, term.aim.flatten(2))


@dataclass(frozen=True, eq=False)
class PoolHomotopy:
    """The search for images behind a max pool.

    Args:
        network: The network.
        enter: Map from unit coordinates to the network's input.
        outputs: The pool's outputs for all examples.
        below: The gradient of the convolution in front of the pool, for a batch of one.
        beat: Called in each evaluation.
    """

    network: Network
    enter: Callable[[Tensor], Tensor]
    outputs: PoolOutputs
    below: GradientBelow | None = None
    beat: Beat = quiet

    def before(self, unit: Tensor) -> Tensor:
        """Return the pool's input (n, C, P) for images `(n, C, ...)`."""
        self.beat()
        return self._value(self.outputs.pool.before, unit)

    def _value(self, node: fx.Node, unit: Tensor) -> Tensor:
        """Return the value (n, C, N) of a node for images."""
        network = self.network
        state = {k: t.to(unit) if t.is_floating_point() else t for k, t in network.state.items()}
        given = {network.entry: self.enter(unit)}
        return (
            given[node].flatten(2)
            if node in given
            else network.evaluate([node], given, state)[node].flatten(2)
        )

    def run(
        self,
        which: Tensor,
        waves: Waves,
        start: Tensor,
        *,
        steps: int,
        tell: Callable[[float, Minimum], None] = lambda done, found: None,
    ) -> Minimum:
        """Return the coefficients of waves of some examples, with the misfit of the last width.

        Args:
            which: Indices (n,) of the examples.
            waves: The waves, in the type of the search.
            start: Coefficients `(n, C, *size)`.
            steps: Number of steps of each width.
            tell: Receives the fraction done and what is found so far.
        """
        outputs = self.outputs.to(which, waves.like)
        spread = VARIANCE * waves.amplitudes().numel() / waves.amplitudes().square().sum()
        found, spent = Minimum(start, torch.full((len(which),), torch.inf), 0), 0

        def prior(c: Tensor) -> Tensor:
            unit = waves.image(c)
            outside = (unit - unit.clamp(0, 1)).square().flatten(1).sum(1)
            return (c.square().flatten(1).sum(1) / 2 + OUTSIDE * outside) / spread

        def objective(c: Tensor, width: float, also: Also | None) -> Tensor:
            unit = waves.image(c)
            misfit = outputs.misfit(self.before(unit), width) + prior(c)
            return width**2 * (misfit if also is None else misfit + also(unit))

        below = () if self.below is None else REFINED
        for stage, width in enumerate((*WIDTHS, *below)):
            also = None
            if stage >= len(WIDTHS):
                also = self._by_gradient(outputs, waves.image(found.inputs), width)
            each = partial(objective, width=width, also=also)
            found = minimize_each(each, found.inputs, steps=steps)
            spent += found.evaluations
            tell((stage + 1) / (len(WIDTHS) + len(below)), found)
        return Minimum(found.inputs, found.values, spent)

    def _by_gradient(self, outputs: PoolOutputs, unit: Tensor, width: float) -> Also:
        """Return the misfit of the gradient below, as a function of images, with the places of the present ones."""
        assert self.below is not None, "expected a gradient below the pool"
        source = self.below.source
        with torch.no_grad():
            places = outputs.places(self.before(unit), width)
            misfit = self.below.misfit(self._value(source, unit), places)
        return lambda moved: misfit(self._value(source, moved))

    def determined(self, which: Tensor, unit: Tensor) -> Tensor:
        """Return whether places of maxima are at least as many as the values of images `(n, C, ...)`, as (n,)."""
        with torch.no_grad():
            told = self.outputs.to(which, unit).equations(self.before(unit))
        return told >= unit[0].numel()
