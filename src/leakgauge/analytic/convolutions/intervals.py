"""Bounds on the values of a network's nodes that follow from the values of some.

A ReLU with a positive output shows its input. One with the output 0 bounds it from above. Another layer
that reads the same input, or a concatenation with it, may need no more than these bounds.

References:
    Ours. Interval arithmetic is common knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network, arguments_of
from leakgauge.analytic.convolutions.operations import MEANS, POOLS, VIEWS, name_of
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu, is_steady_norm

TIGHT = 1e-9
"""Distance of two bounds, relative to the largest value, at which they count as equal."""
TURNS = 3
"""Largest number of passes through the network, forward and back."""
MONOTONE = (
    (VIEWS - {"constant_pad_nd", "t"})
    | MEANS
    | {
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
    }
)
"""Operations of one input whose outputs do not fall if an entry rises."""
SAME_SHAPE = frozenset(("alias", "clone", "detach", "_to_copy"))
RESHAPES = frozenset(("view", "_unsafe_view", "reshape"))


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds `(B, ...)` of a node's value. They are infinite for an entry without bounds."""

    low: Tensor
    high: Tensor

    @property
    def known(self) -> Tensor:
        """Marks `(B, ...)` of entries whose bounds are equal."""
        finite = self.low.isfinite() & self.high.isfinite()
        size = self.low[finite].abs().max() if bool(finite.any()) else self.low.new_zeros(())
        return finite & (self.high - self.low <= TIGHT * size)

    @property
    def value(self) -> Tensor:
        """The value `(B, ...)` where it is known, else 0."""
        return torch.where(self.known, self.low, 0.0)

    def within(self, other: Bounds | None) -> Bounds:
        """Return the bounds that both give."""
        if other is None:
            return self
        return Bounds(self.low.maximum(other.low), self.high.minimum(other.high))

    def scaled(self, factor: Tensor, shift: Tensor) -> Bounds:
        """Return the bounds of `factor * value + shift`."""
        low, high = factor * self.low + shift, factor * self.high + shift
        rising, nothing = factor > 0, factor == 0
        ends = torch.where(rising, low, high), torch.where(rising, high, low)
        return Bounds(*(torch.where(nothing, shift.expand_as(low), end) for end in ends))


class Intervals:
    """Bounds on nodes, from known values.

    Args:
        network: The network.
        values: Known values `(B, ...)`.
        count: Batch size B.
    """

    def __init__(self, network: Network, values: Mapping[fx.Node, Tensor], count: int) -> None:
        self.network, self.count = network, count
        self.norms = Propagation(network, count)
        self.found = {node: Bounds(value, value) for node, value in values.items()}
        self.exact = set(values)
        nodes = [n for n in network.graph.nodes if n in network.used and n in network.varying]
        for _ in range(TURNS):
            changed = [self._add(node, self._forward(node)) for node in nodes]
            changed += [
                self._add(source, bounds)
                for node in reversed(nodes)
                for source, bounds in self._back(node)
            ]
            if not any(changed):
                break

    def determined(self) -> dict[fx.Node, Tensor]:
        """Return the values of the nodes whose entries are all known."""
        shown = ((n, b) for n, b in self.found.items() if is_tensor(n))
        return {n: b.value for n, b in shown if n in self.exact or bool(b.known.all())}

    def _add(self, node: fx.Node, bounds: Bounds | None) -> bool:
        """Add bounds of a node. Return whether they tell more than before."""
        if bounds is None or node in self.exact:
            return False
        before = self.found.get(node)
        after = bounds.within(before)
        self.found[node] = after
        if bool(after.known.all()):
            self.exact.add(node)
            return True
        return before is None or int(after.known.sum()) > int(before.known.sum())

    def _forward(self, node: fx.Node) -> Bounds | None:
        """Return the bounds of a node that its inputs give."""
        sources = [s for s in node.all_input_nodes if s in self.network.varying]
        given = [self.found.get(source) for source in sources]
        if not sources or all(bounds is None for bounds in given):
            return None
        if name_of(node) == "getitem":
            first_output = shows_first(sources[0]) and arguments_of(node)[1] == 0
            return given[0] if first_output else None
        if all(source in self.exact for source in sources):
            value = self._evaluate(node, {s: self.found[s].low for s in sources})
            return None if value is None else Bounds(value, value)
        name, first = name_of(node), given[0]
        if name == "cat":
            return self._joined(node)
        if first is None or len(sources) > 1:
            return None
        if is_relu(node):
            return Bounds(first.low.clamp_min(0), first.high.clamp_min(0))
        if is_steady_norm(node):
            return first.scaled(*self.norms.affine(node))
        if name in MONOTONE:
            low, high = (self._evaluate(node, {sources[0]: b}) for b in (first.low, first.high))
            return None if low is None or high is None else Bounds(low, high)
        return None

    def _evaluate(self, node: fx.Node, given: Mapping[fx.Node, Tensor]) -> Tensor | None:
        """Return the value of an operation, or the first one of a normalization or a pool."""
        with torch.no_grad():
            found: Any = self.network.evaluate([node], given)[node]
        found = found[0] if shows_first(node) else found
        return found if isinstance(found, Tensor) else None

    def _joined(self, node: fx.Node) -> Bounds | None:
        """Return the bounds of a concatenation along the channels."""
        parts = parts_of(node)
        if parts is None:
            return None
        found = [self.found.get(part) or self._nothing(part) for part in parts]
        return Bounds(torch.cat([b.low for b in found], 1), torch.cat([b.high for b in found], 1))

    def _nothing(self, node: fx.Node) -> Bounds:
        """Return infinite bounds of a node."""
        high = torch.full((self.count, *shape_of(node)), torch.inf, dtype=torch.float64)
        return Bounds(-high, high)

    def _back(self, node: fx.Node) -> Iterator[tuple[fx.Node, Bounds]]:
        """Yield the bounds of inputs that a node's own bounds give."""
        after, name = self.found.get(node), name_of(node)
        sources = [s for s in node.all_input_nodes if s in self.network.varying]
        if after is None:
            return
        if is_relu(node):
            low = torch.where(after.low > 0, after.low, -torch.inf)
            yield sources[0], Bounds(low, after.high)
        elif is_steady_norm(node):
            factor, shift = self.norms.affine(node)
            if bool((factor.abs() > 1e-12).all()):
                yield sources[0], after.scaled(1 / factor, -shift / factor)
        elif name in SAME_SHAPE or (name == "getitem" and is_steady_norm(sources[0])):
            yield sources[0], after
        elif name in RESHAPES:
            shape = (self.count, *shape_of(sources[0]))
            if after.low.numel() == self.count * sources[0].meta["val"][0].numel():
                yield sources[0], Bounds(after.low.reshape(shape), after.high.reshape(shape))
        elif name == "cat":
            yield from self._split(node, after)

    def _split(self, node: fx.Node, after: Bounds) -> Iterator[tuple[fx.Node, Bounds]]:
        """Yield the bounds of the parts of a concatenation along the channels."""
        parts = parts_of(node) or []
        sizes = [shape_of(part)[0] for part in parts]
        pieces = zip(
            torch.split(after.low, sizes, 1), torch.split(after.high, sizes, 1), strict=True
        )
        for part, (low, high) in zip(parts, pieces if parts else (), strict=True):
            if part in self.network.varying:
                yield part, Bounds(low, high)


def shows_first(node: fx.Node) -> bool:
    """Return whether a node has several outputs, and the first one is its value."""
    return is_steady_norm(node) or name_of(node) in POOLS


def is_tensor(node: fx.Node) -> bool:
    """Return whether a node's value is one tensor."""
    return isinstance(node.meta.get("val"), Tensor)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape (C, ...) of one example of a node's value."""
    return tuple(node.meta["val"].shape[1:])


def parts_of(node: fx.Node) -> list[fx.Node] | None:
    """Return the parts of a concatenation along the channels, or None if it is along another axis."""
    arguments = arguments_of(node)
    axis = arguments[1] if len(arguments) > 1 else 0
    return list(arguments[0]) if axis in (1, 1 - node.meta["val"].ndim) else None
