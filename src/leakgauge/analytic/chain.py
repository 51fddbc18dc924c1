"""A network as a chain: linear and convolutional layers, and between them functions of one entry each.

Between two layers there may be one max pool. What is no such chain (skip connections, other pools, functions
that are no module) is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from leakgauge.analytic.inverses import applied, inverse, undone
from leakgauge.analytic.linear import inverse_of_affine
from leakgauge.core import Domain, Inapplicable, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, single, spread
from leakgauge.federated.isolation.untouched import output_of

AGREEMENT = 1e-9
"""Relative error at which the modules, called one after the other, are the model."""
FLOAT64 = torch.zeros((), dtype=torch.float64)

_NOTHING = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
"""Modules that change no value; dropout in eval mode, which chain_of() sees to."""


@dataclass(frozen=True)
class ChainLayer:
    """One layer with a weight: what it sees and gives for one example, and what follows up to the next.

    after: functions of one entry each; then pool, which gives (*pooled); then more such functions, `then`.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    shape: tuple[int, ...]
    output: tuple[int, ...]
    after: tuple[nn.Module, ...]
    pool: nn.MaxPool2d | None = None
    then: tuple[nn.Module, ...] = ()

    @property
    def pooled(self) -> tuple[int, ...]:
        """Return the shape of what follows."""
        if self.pool is None:
            return self.output
        return tuple(self.pool(torch.zeros(1, *self.output, dtype=torch.float64)).shape[1:])

    def activate(self, z: Tensor) -> Tensor:
        """Return the output z (*output) after all that follows: (*pooled)."""
        z = applied(self.after, z)
        return z if self.pool is None else applied((self.pool, *self.then), z)

    def back(self, delta: Tensor) -> Tensor:
        """Return the gradient at the layer's input (*shape), from that at its output (*output)."""
        x = torch.zeros((1, *self.shape), dtype=delta.dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.module(x), [x], delta.unsqueeze(0))
        return gradient[0]

    def deactivate(self, h: Tensor, *, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, which entries of z are known, and the slope dh/dz (each *output), from h (*output).

        h is what the functions of one entry make of z, up to the pool if there is one.

        noise: the least error of h, relative to its largest entry.
        """
        return undone(self.after, h, noise=noise)


@dataclass(frozen=True)
class Chain:
    """The layers of a model from the input on; `model` is a float64 copy.

    enter maps unit coordinates (N, *shape) to what the first layer sees (N, F), and invert back.
    """

    layers: tuple[ChainLayer, ...]
    model: nn.Module
    enter: Callable[[Tensor], Tensor]
    invert: Callable[[Tensor], Tensor]
    output: tuple[int, ...]

    def finish(self, z: Tensor) -> Tensor:
        """Return the model's outputs (N, *output) from those of its last layer, z (N, *)."""
        for module in self.layers[-1].after:
            z = module(z)
        return z.reshape(-1, *self.output)


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    shape: tuple[int, ...]
    output: tuple[int, ...]


def chain_of(model: nn.Module, domain: Domain) -> Chain | Inapplicable:
    """Return the chain that `model` is on the examples of `domain`, or the reason why it is none."""
    for name, module in model.named_modules():
        if is_parametrized(module):
            return Inapplicable(
                f"the weight of {name!r} is parametrized (weight norm, spectral norm)"
            )
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return Inapplicable(f"{name!r} draws a mask of its own")
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
            return Inapplicable(f"{name!r} normalizes by the batch's own statistics")
    model = doubled(model)
    calls = _calls(model, domain)
    if isinstance(calls, Inapplicable):
        return calls
    if not _is_sequence(model, calls, domain):
        return Inapplicable(
            "the model is not its modules one after the other (skip connections, or functions)"
        )
    weighted = {
        i: call.module
        for i, call in enumerate(calls)
        if isinstance(call.module, nn.Conv2d | nn.Linear)
        and any(True for _ in call.module.parameters())
    }
    if not weighted:
        return Inapplicable("the model has no linear or convolutional layer")
    if len({id(module) for module in weighted.values()}) < len(weighted):
        return Inapplicable("a layer is called more than once")
    layers, places = [], list(weighted)
    for i, following in zip(places, [*places[1:], len(calls)], strict=True):
        layer = _layer(calls[i], weighted[i], calls[i + 1 : following])
        if isinstance(layer, Inapplicable):
            return layer
        layers.append(layer)
    enter = partial(_entry, calls[: places[0]], domain)
    invert = inverse_of_affine(enter, domain)
    if invert is None:
        return Inapplicable(
            f"the first layer, {layers[0].name!r}, does not see an invertible affine map of the input"
        )
    with torch.no_grad():
        probe = domain.from_unit(spread(unit_shape(domain), 1, FLOAT64))
        output = single(output_of(model, probe)).shape[1:]
    return Chain(tuple(layers), model, enter, invert, tuple(output))


def _calls(model: nn.Module, domain: Domain) -> list[_Call] | Inapplicable:
    """Return the modules without children, as the forward calls them; or in one line why they make no chain."""
    calls: list[_Call] = []
    others: list[str] = []

    def note(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        (given,) = arguments if len(arguments) == 1 else (None,)
        if not isinstance(given, Tensor) or not isinstance(output, Tensor):
            others.append(f"{name!r} ({type(module).__name__}) takes or gives more than one tensor")
            return
        calls.append(_Call(name, module, tuple(given.shape[1:]), tuple(output.shape[1:])))

    probe = spread(unit_shape(domain), 1, FLOAT64)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        single(output_of(model, domain.from_unit(probe)))
    return Inapplicable(others[0]) if others else calls


class _Unfit(Exception):
    """A module does not take what the one before gives."""


def _through(calls: list[_Call], x: Tensor) -> Tensor:
    """Return x (N, ...) after the modules, reshaped as each saw it. Raise _Unfit if that does not fit."""
    for call in calls:
        if x[0].numel() != torch.Size(call.shape).numel():
            raise _Unfit(call.name)
        with probing(f"{call.name!r}"):
            x = single(call.module(x.reshape(-1, *call.shape).clone()))
    return x


def _is_sequence(model: nn.Module, calls: list[_Call], domain: Domain) -> bool:
    """Return whether the calls, each on the one before, give what the model gives."""
    with torch.no_grad():
        inputs = domain.from_unit(spread(unit_shape(domain), 2, FLOAT64))
        try:
            given = _through(calls, inputs)
        except _Unfit:
            return False
        expected = single(output_of(model, inputs))
    if given.numel() != expected.numel():
        return False
    return bool((given.reshape_as(expected) - expected).norm() <= AGREEMENT * expected.norm())


def _entry(calls: list[_Call], domain: Domain, unit: Tensor) -> Tensor:
    """Return what the first layer sees, flat (N, F), of unit coordinates (N, *shape)."""
    return _through(calls, domain.from_unit(unit)).flatten(1)


def _layer(
    call: _Call, module: nn.Conv2d | nn.Linear, after: list[_Call]
) -> ChainLayer | Inapplicable:
    """Return a layer with what follows it, or the reason why that cannot be undone. module: that of the call."""
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros":
            return Inapplicable(
                f"the convolution {call.name!r} has groups, or pads with other than zeros"
            )
    elif len(call.shape) != 1:
        return Inapplicable(
            f"the linear layer {call.name!r} sees {len(call.shape)} axes an example, not one vector"
        )
    kept = [other for other in after if not isinstance(other.module, _NOTHING)]
    pools = [i for i, other in enumerate(kept) if _selects(other.module)]
    for i, other in enumerate(kept):
        if i in pools[:1]:
            continue
        if other.output != other.shape:
            return Inapplicable(
                f"{other.name!r} ({_kind(other)}) gives another shape: what it drops is in no equation"
            )
        if inverse(other.module) is None and not isinstance(other.module, nn.ReLU):
            return Inapplicable(f"{other.name!r} ({_kind(other)}) has no known inverse")
    modules = tuple(other.module for other in kept)
    if not pools:
        return ChainLayer(call.name, module, call.shape, call.output, modules)
    pool = modules[pools[0]]
    assert isinstance(pool, nn.MaxPool2d)
    before, then = modules[: pools[0]], modules[pools[0] + 1 :]
    return ChainLayer(call.name, module, call.shape, call.output, before, pool, then)


def _selects(module: nn.Module) -> bool:
    """Whether it is a max pool whose windows lie on the plane and its padding."""
    return isinstance(module, nn.MaxPool2d) and not module.ceil_mode and not module.return_indices


def unpooled(chain: Chain) -> str | None:
    """Return why the values before a pool are in no equation, or None if there is no pool."""
    for layer in chain.layers:
        if layer.pool is not None:
            return f"a max pool follows {layer.name!r}: what it drops is in no equation"
    return None


def _kind(call: _Call) -> str:
    return type(call.module).__name__
