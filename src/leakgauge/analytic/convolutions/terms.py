"""What is known of an image: terms whose residuals vanish at the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.tangents import Tangents
from leakgauge.core.pulse import Beat, quiet


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the objective.

    Args:
        node: The node u.
        aim: Its values a `(B, ...)`, or the right side (rows, C) of gradient equations, or (B, rows, C).
        weight: Weights (B,), or (B, ...) for known entries.
        matrix: The matrix A (rows, N) of gradient equations, or (B, rows, N) if each example has its own. None
            for values.
    """

    node: fx.Node
    aim: Tensor
    weight: Tensor
    matrix: Tensor | None = None

    def residual(self, value: Tensor) -> Tensor:
        """Return the residual (n, R) of each image, from values (n, ...) of the node."""
        if self.matrix is None:
            return self._weighted(value - self.aim)
        return self._weighted(self._product(value) - self.aim)

    def along(self, tangent: Tensor) -> Tensor:
        """Return the derivative (n, R) of the residual along derivatives (n, ...) of the node."""
        return self._weighted(tangent if self.matrix is None else self._product(tangent))

    def loss(self, value: Tensor) -> Tensor:
        """Return the term (n,) of each image, from values (n, ...) of the node."""
        return self.residual(value).square().sum(1)

    def _product(self, value: Tensor) -> Tensor:
        assert self.matrix is not None
        if self.matrix.ndim == 3:
            return self.matrix @ value.flatten(2).mT
        return torch.einsum("rn,bcn->brc", self.matrix, value.flatten(2))

    def _weighted(self, gap: Tensor) -> Tensor:
        root = self.weight.sqrt()
        if root.ndim == 1:
            root = root.reshape(-1, *[1] * (gap.ndim - 1))
        return (gap * root).flatten(1)

    def of(self, which: Tensor) -> Term:
        """Return the term of some examples, by their indices."""
        if self.matrix is None:
            return Term(self.node, self.aim[which], self.weight[which])
        if self.matrix.ndim == 3:
            return Term(self.node, self.aim[which], self.weight[which], self.matrix[which])
        return self

    def to(self, like: Tensor) -> Term:
        """Return the term in another type."""
        matrix = None if self.matrix is None else self.matrix.to(like)
        return Term(self.node, self.aim.to(like), self.weight.to(like), matrix)


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms as functions of images.

    Args:
        network: The network.
        enter: Map from unit coordinates to the network's input.
        terms: The terms.
        beat: Called in each evaluation.
    """

    network: Network
    enter: Callable[[Tensor], Tensor]
    terms: Sequence[Term]
    beat: Beat = quiet

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes of the terms."""
        return [term.node for term in self.terms]

    def to(self, which: Tensor, like: Tensor) -> Typed:
        """Return the terms of some examples, by their indices, in the type of a tensor."""
        state: Mapping[str, Tensor] = {
            name: t.to(like) if t.is_floating_point() else t
            for name, t in self.network.state.items()
        }
        return Typed(self, [term.of(which).to(like) for term in self.terms], state)


@dataclass(frozen=True, eq=False)
class Typed:
    """Terms of some examples in one type.

    Args:
        whole: The terms of all examples.
        terms: Those of some examples.
        state: Parameters and buffers of the network.
    """

    whole: Terms
    terms: Sequence[Term]
    state: Mapping[str, Tensor]

    def residuals(self, unit: Tensor) -> list[Tensor]:
        """Return the residuals (n, R) of each term at images `(n, C, ...)`."""
        self.whole.beat()
        network, nodes = self.whole.network, self.whole.nodes
        values = network.evaluate(nodes, {network.entry: self.whole.enter(unit)}, self.state)
        return [term.residual(values[term.node]) for term in self.terms]


def outside(unit: Tensor) -> Tensor:
    """Return residuals (n, R) of images `(n, C, ...)` for values outside of [0, 1], with a sum of mean squares."""
    excess = unit - unit.clamp(0, 1)
    return excess.flatten(1) / math.sqrt(unit[0].numel())


@dataclass(frozen=True, eq=False)
class ForSome:
    """The residuals of some examples, for least squares.

    Args:
        terms: The terms of all examples.
        among: Indices of these examples.
    """

    terms: Terms
    among: Tensor

    def at(self, which: Tensor, unit: Tensor) -> Tensor:
        """Return the residuals (n, R) at images `(n, C, ...)`, for the indices (n,) among these examples."""
        residuals = self.terms.to(self.among[which], unit).residuals(unit)
        return torch.cat([*residuals, outside(unit)], 1)

    def linear(self, which: Tensor, unit: Tensor) -> Derivative:
        """Return the derivative at images, in float32."""
        unit = unit.float()
        return Derivative(self.terms.to(self.among[which], unit), unit)


class Derivative:
    """The derivative of the residuals at some images.

    Args:
        typed: The terms.
        unit: The images `(n, C, ...)`.
    """

    def __init__(self, typed: Typed, unit: Tensor) -> None:
        self.typed, self.unit = typed, unit.detach().requires_grad_()
        whole = typed.whole
        # Unit coordinates enter the network by an affine map.
        self.origin = whole.enter(torch.zeros_like(unit))
        self.tangents = Tangents(whole.network, whole.nodes, whole.enter(unit), typed.state)
        with torch.enable_grad():
            self.residuals = torch.cat([*typed.residuals(self.unit), outside(self.unit)], 1)
        self.excess = ((unit < 0) | (unit > 1)) / self.unit[0].numel() ** 0.5

    def forward(self, direction: Tensor) -> Tensor:
        """Return the derivative (n, R) along directions `(n, C, ...)`."""
        whole = self.typed.whole
        whole.beat()
        entering = whole.enter(direction) - self.origin
        along = self.tangents(entering)
        parts = [term.along(along[term.node]) for term in self.typed.terms]
        return torch.cat([*parts, (direction * self.excess).flatten(1)], 1)

    def back(self, gap: Tensor) -> Tensor:
        """Return the product `(n, C, ...)` of the transpose with gaps (n, R)."""
        (found,) = torch.autograd.grad(self.residuals, [self.unit], gap, retain_graph=True)
        return found
