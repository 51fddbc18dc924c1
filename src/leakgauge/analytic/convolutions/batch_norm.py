"""Values and signals through BatchNorm in train mode, whose statistics are those of the batch.

Let n be the number of entries of a channel in the batch, and x its normalized input. The signal dy at
its output y becomes, at its input z:

`dz = gamma / sigma * (dy - sum(dy) / n - x * sum(dy x) / n)`

The two sums are the gradients of the layer's shift and of its factor gamma. So a wrong bit of a mask
changes dz as in eval mode: by `gamma / sigma` times the signal at this bit.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network, arguments_of
from leakgauge.analytic.convolutions.operations import name_of, trains
from leakgauge.analytic.convolutions.propagation import Partial, Propagation
from leakgauge.analytic.convolutions.zeros import size_of_zeros


@dataclass(frozen=True, eq=False)
class Moments:
    """The statistics of a BatchNorm's input.

    Args:
        deviation: The root of variance plus eps, (C, 1, ...).
        mean: The mean (C, 1, ...), or None if it is not known.
        normalized: The normalized input `(B, C, ...)`.
    """

    deviation: Tensor
    mean: Tensor | None
    normalized: Tensor


def is_batch_norm(node: fx.Node) -> bool:
    """Return whether a node is BatchNorm that uses the statistics of the batch."""
    return "batch_norm" in name_of(node) and trains(node)


def mixes(network: Network) -> bool:
    """Return whether a network has BatchNorm in train mode, which mixes the examples of a batch."""
    return any(is_batch_norm(node) for node in network.used)


def norm_behind(network: Network, node: fx.Node) -> fx.Node | None:
    """Return the BatchNorm in train mode that alone uses a node, or None."""
    users = network.users(node)
    return users[0] if len(users) == 1 and is_batch_norm(users[0]) else None


@dataclass(eq=False)
class BatchPropagation(Propagation):
    """Known values, masks and signals of one batch whose examples share the statistics of BatchNorm.

    Args:
        gradients: Gradients of the parameters by name.
        moments: Statistics of the BatchNorms whose inputs are known or estimated.
        raw: Values as they were learned, before values near 0 were set to 0.
    """

    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    moments: dict[fx.Node, Moments] = field(default_factory=dict)
    raw: dict[fx.Node, Tensor] = field(default_factory=dict)

    def learn(self, node: fx.Node, value: Tensor, *, error: float = 0.0) -> None:
        """Add a known value `(B, ...)`, and forget what was estimated from it."""
        super().learn(node, value, error=error)
        self.raw[node] = value
        self._forget(node)

    def flip(self, relu: fx.Node, wrong: Tensor) -> None:
        """Correct the mask of a ReLU where `wrong` `(B, ...)` is True, and its value."""
        super().flip(relu, wrong)
        if relu in self.raw:
            self.values[relu] = torch.where(self.masks[relu], self.raw[relu], 0)
            self._forget(relu)

    def bypass(self, node: fx.Node, through: Sequence[fx.Node]) -> Tensor:
        """Return the part of a node's signal that comes from other users than some."""
        known = self._signals(node)
        parts = [
            self._back(user, node, known)
            for user in self.network.users(node)
            if user not in through
        ]
        return sum((part for part in parts if part is not None), torch.zeros_like(known[node]))

    def hides_scale(self, node: fx.Node) -> bool:
        """Return whether all that uses a node goes through BatchNorm at once, so that its scale shows nowhere."""
        return all(norm_behind(self.network, user) is not None for user in self.network.users(node))

    def _forget(self, node: fx.Node) -> None:
        """Forget the statistics behind a value."""
        for user in self.network.users(node):
            norm = norm_behind(self.network, user)
            if norm is not None:
                self.moments.pop(norm, None)

    def shown(self, value: Tensor, least: float) -> Tensor:
        """Return where the value `(B, C, ...)` behind a ReLU is positive. `least` is a fraction of the largest."""
        low = size_of_zeros(value, 1e-9)
        return value > (1.6 * low).clamp_min(least * float(value.max()))

    def parameters(self, norm: fx.Node) -> tuple[str | None, str | None]:
        """Return the names of a BatchNorm's factor and shift, or None if it has none."""
        _, weight, bias, *_ = arguments_of(norm)
        return self.network.names.get(weight), self.network.names.get(bias)

    def estimate(self, norm: fx.Node, value: Tensor) -> None:
        """Set the statistics of a BatchNorm from its input `(B, C, ...)`."""
        axes = [0, *range(2, value.ndim)]
        mean = value.mean(axes, keepdim=True)
        variance = (value - mean).square().mean(axes, keepdim=True)
        deviation = (variance + arguments_of(norm)[-1]).sqrt()
        self.moments[norm] = Moments(deviation[0], mean[0], (value - mean) / deviation)

    def known_moments(self, norm: fx.Node) -> Moments | None:
        """Return the statistics of a BatchNorm, or None if nothing is known of them."""
        if norm not in self.moments:
            value = self.value(arguments_of(norm)[0])
            if value is None:
                return None
            self.estimate(norm, value)
        return self.moments[norm]

    def slope(self, norm: fx.Node) -> Tensor:
        """Return the factor (C, 1, ...) of a BatchNorm with known statistics."""
        if not is_batch_norm(norm):
            return super().slope(norm)
        moments, (weight, _) = self.known_moments(norm), self.parameters(norm)
        assert moments is not None, "expected a BatchNorm with known statistics"
        inverse: Tensor = 1 / moments.deviation
        if weight is not None:
            inverse *= self.network.state[weight].view_as(inverse)
        return inverse

    def _back(self, user: fx.Node, node: fx.Node, known: dict[fx.Node, Tensor]) -> Tensor | None:
        """Return the part of a node's signal that comes from one user, or None if it is not known."""
        if not is_batch_norm(user):
            return super()._back(user, node, known)
        signal, moments = known.get(user), self.known_moments(user)
        if signal is None or moments is None:
            return None
        axes, shape = [0, *range(2, signal.ndim)], moments.deviation.shape
        weight, bias = self.parameters(user)
        count = signal.numel() / signal.shape[1]
        sums = self.gradients.get(bias or "", signal.sum(axes)).view(shape)
        inner = (signal * moments.normalized).sum(axes)
        inner = self.gradients.get(weight or "", inner).view(shape)
        rest = signal - sums / count - moments.normalized * inner / count
        found: Tensor = self.slope(user) * rest
        return found

    def _inferred(self, user: fx.Node, node: fx.Node) -> Iterator[Partial]:
        """Yield the entries of a node that follow from what is known of one user."""
        if not is_batch_norm(user):
            yield from super()._inferred(user, node)
            return
        moments, after = self.known_moments(user), self.partial(user)
        if moments is None or moments.mean is None or after is None:
            return
        slope, (_, bias) = self.slope(user), self.parameters(user)
        shift = 0.0 if bias is None else self.network.state[bias].view_as(slope)
        value = (after.value - shift) / slope + moments.mean
        yield Partial(value, after.known & (slope.abs() > 1e-12))


def blank_moments(weight: Tensor, shape: torch.Size, count: int) -> Moments:
    """Return moments with a rough deviation, and nothing else.

    Args:
        weight: The weight of the convolution in front.
        shape: Shape (O, ...) of its output for one example.
        count: Batch size.
    """
    deviation = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 2))
    return Moments(deviation, None, weight.new_zeros(count, *shape))
