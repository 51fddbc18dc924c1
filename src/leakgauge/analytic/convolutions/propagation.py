"""Values and signals of a network's nodes, propagated from known nodes toward the input.

The signal of a node is the gradient of the loss with respect to it. Behind a ReLU, the mask of
positive outputs is all that a signal needs. So signals pass through layers whose inputs are not
known yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network, arguments_of, factor_and_shift
from leakgauge.analytic.convolutions.operations import MEANS, is_max_of_rectified, name_of, trains
from leakgauge.analytic.convolutions.zeros import size_of_zeros

DECIDED = 1.6
"""A value above this multiple of the errors near 0 counts as positive."""
DOUBTFUL = 100.0
"""A value below this multiple of the errors near 0 may have the wrong mask."""
INDEXING = frozenset(
    {
        "_unsafe_view",
        "alias",
        "clone",
        "constant_pad_nd",
        "detach",
        "permute",
        "slice",
        "squeeze",
        "transpose",
        "unsqueeze",
        "view",
    }
)
"""Operations of one input that move values, and whose adjoint moves them back."""
LINEAR = (INDEXING | MEANS) | {
    "add",
    "addmm",
    "cat",
    "convolution",
    "expand",
    "mm",
    "sub",
    "sum",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_trilinear3d",
}
"""Operations that are affine in all inputs that are not parameters."""


@dataclass(frozen=True, eq=False)
class Partial:
    """Some entries of a node's value.

    Args:
        value: Values `(B, ...)`.
        known: Marks the known entries `(B, ...)`.
    """

    value: Tensor
    known: Tensor


def is_relu(node: fx.Node) -> bool:
    """Return whether a node is a ReLU."""
    return name_of(node) == "relu"


def is_steady_norm(node: fx.Node) -> bool:
    """Return whether a node is BatchNorm with running statistics."""
    return "batch_norm" in name_of(node) and not trains(node)


@dataclass(eq=False)
class Propagation:
    """Known values, masks and signals of one batch.

    Args:
        network: The network.
        count: Batch size B.
        values: Known values `(B, ...)` of nodes.
        signals: Known signals `(B, ...)` of nodes.
        masks: Where the output of a ReLU is positive. A mask may be corrected without its value.
        doubts: Where a mask may be wrong, because the value is close to 0.
        margins: Distance of each value from the one that decides its bit, in units of its error.
    """

    network: Network
    count: int
    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    signals: dict[fx.Node, Tensor] = field(default_factory=dict)
    masks: dict[fx.Node, Tensor] = field(default_factory=dict)
    doubts: dict[fx.Node, Tensor] = field(default_factory=dict)
    margins: dict[fx.Node, Tensor] = field(default_factory=dict)

    def learn(self, node: fx.Node, value: Tensor, *, error: float = 0.0) -> None:
        """Add a known value `(B, ...)`. Behind a ReLU, and a max pool of one, values near 0 are set to 0.

        Args:
            node: The node.
            value: Its value.
            error: Largest error of the value, relative to its largest entry.
        """
        if is_relu(node):
            low = size_of_zeros(value, error)
            mask = value > DECIDED * low
            self.masks[node], self.doubts[node] = mask, value < DOUBTFUL * low
            self.margins[node] = (value / low - DECIDED).abs()
            value = torch.where(mask, value, 0)
        elif is_max_of_rectified(node):
            value = torch.where(value > DECIDED * size_of_zeros(value, error), value, 0)
        self.values[node] = value

    def look_up(self, relu: fx.Node, *, error: float) -> None:
        """Set the mask of a ReLU whose input follows from the known values.

        Args:
            relu: The node.
            error: Largest error of its input, relative to its largest entry.
        """
        if relu in self.masks:
            return
        before = self.value(relu.all_input_nodes[0])
        if before is not None:
            self.masks[relu] = before > 0
            self.margins[relu] = before.abs() / (error * before.abs().max())
            self.doubts[relu] = self.margins[relu] < DOUBTFUL

    def flip(self, relu: fx.Node, wrong: Tensor) -> None:
        """Correct the mask of a ReLU where `wrong` `(B, ...)` is True."""
        self.masks[relu] = self.masks[relu] ^ wrong

    def value(self, node: fx.Node) -> Tensor | None:
        """Return the value of a node if the known ones determine it, else None."""
        if node in self.values:
            return self.values[node]
        try:
            with torch.no_grad():
                found = self.network.evaluate([node], self.values)[node]
        except ValueError:
            return None
        return found

    def signal(self, node: fx.Node) -> Tensor | None:
        """Return the signal of a node if it is known, else None."""
        return self._signals(node).get(node)

    def settle(self, node: fx.Node) -> None:
        """Keep the signals of a node and of all that follow it. Their masks will not change any more."""
        self.signals.update(self._signals(node))

    def _signals(self, node: fx.Node) -> dict[fx.Node, Tensor]:
        """Return the known signals, with those of a node and of all that follow it."""
        known = dict(self.signals)
        for each in reversed(self._above(node)):
            if each in known:
                continue
            parts = [self._back(user, each, known) for user in self.network.users(each)]
            total = None if not parts or any(p is None for p in parts) else sum(parts)  # type: ignore[arg-type]
            if isinstance(total, Tensor):
                known[each] = total
        return known

    def _above(self, node: fx.Node) -> list[fx.Node]:
        """Return a node and all that follow it up to nodes with known signals, in order."""
        reached, open_ = {node}, [node]
        while open_:
            for user in self.network.users(open_.pop()):
                if user not in reached:
                    reached.add(user)
                    if user not in self.signals:
                        open_.append(user)
        return [each for each in self.network.graph.nodes if each in reached]

    def _back(self, user: fx.Node, node: fx.Node, known: dict[fx.Node, Tensor]) -> Tensor | None:
        """Return the part of a node's signal that comes from one user, or None if it is not known."""
        signal = known.get(user)
        if signal is None:
            return None
        if is_relu(user):
            mask = self.masks.get(user)
            if mask is not None:
                return signal * mask
            before = self.value(node)
            return None if before is None else signal * (before > 0)
        if name_of(user) == "getitem":
            return signal
        if is_steady_norm(user):
            return signal * self.slope(user)
        return self._adjoint(user, node, signal)

    def _adjoint(self, user: fx.Node, node: fx.Node, signal: Tensor) -> Tensor | None:
        """Return the adjoint of an operation at the known values of its inputs, or at 0 if it is affine.

        It is 0 where no derivative passes, as through a comparison. It is None if the operation needs
        more than its inputs, as one that writes into another tensor.
        """
        value = node.meta["val"]
        if not value.is_floating_point():
            return signal.new_zeros(self.count, *value.shape[1:])
        affine = name_of(user) in LINEAR
        given = dict[fx.Node, Tensor]()
        for each in user.all_input_nodes:
            fixed = each not in self.network.varying
            value = None if affine and not fixed else self.value(each)
            if value is None:
                if not affine:
                    return None
                value = signal.new_zeros(self.count, *each.meta["val"].shape[1:])
            given[each] = value
        given[node] = given[node].detach().requires_grad_()
        with torch.enable_grad():
            try:
                out = self.network.evaluate([user], given)[user]
            except ValueError:
                return None
            out = out[0] if isinstance(out, tuple) else out
            if not out.requires_grad:
                return torch.zeros_like(given[node])
            (found,) = torch.autograd.grad(out, [given[node]], signal)
        return found

    def slope(self, norm: fx.Node) -> Tensor:
        """Return the factor (C, 1, ...) of a BatchNorm with running statistics."""
        scale, _ = self.affine(norm)
        return scale

    def affine(self, norm: fx.Node) -> tuple[Tensor, Tensor]:
        """Return the factor and the shift (C, 1, ...) of a BatchNorm with running statistics."""
        source, *rest = arguments_of(norm)
        state, names = self.network.state, self.network.names
        scale, shift = factor_and_shift(
            *(state[names[each]] if isinstance(each, fx.Node) else each for each in rest)
        )
        shape = (-1, *[1] * (source.meta["val"].ndim - 2))
        return scale.reshape(shape), shift.reshape(shape)

    def partial(self, node: fx.Node) -> Partial | None:
        """Return the entries of a node that follow from the known values, or None if there are none."""
        value = self.value(node)
        if value is not None:
            return Partial(value, torch.ones_like(value, dtype=torch.bool))
        found = [p for user in self.network.users(node) for p in self._inferred(user, node)]
        if not found:
            return None
        value, known = found[0].value, found[0].known
        for other in found[1:]:
            value = torch.where(known, value, other.value)
            known = known | other.known
        return Partial(value, known)

    def _inferred(self, user: fx.Node, node: fx.Node) -> Iterator[Partial]:
        """Yield the entries of a node that follow from what is known of one user."""
        if is_relu(user):
            if user in self.values:
                yield Partial(self.values[user], self.masks[user])
            return
        name = name_of(user)
        if name not in INDEXING | {"add", "getitem"} and not is_steady_norm(user):
            return
        after = self.partial(user)
        if after is None:
            return
        if name == "getitem":
            yield after
        elif is_steady_norm(user):
            scale, shift = self.affine(user)
            yield Partial((after.value - shift) / scale, after.known & (scale.abs() > 1e-12))
        elif name == "add":
            others = [each for each in user.all_input_nodes if each is not node]
            if len(others) == 1 and len(user.args) == 2 and not user.kwargs:
                other = self.value(others[0])
                if other is not None and other.shape == after.value.shape:
                    yield Partial(after.value - other, after.known)
        else:
            places = self._adjoint(user, node, after.known.to(after.value))
            values = self._adjoint(user, node, torch.where(after.known, after.value, 0))
            if places is not None and values is not None:
                yield Partial(values, places > 0.5)
