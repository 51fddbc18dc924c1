"""A network as a chain of linear and convolutional layers, with elementwise functions between them.

One max pool may stand between two layers. Other networks are refused with a reason: skip
connections, other pools, and functions that are not modules.
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

from leakgauge.analytic.inverses import apply_modules, inverse, invert_modules
from leakgauge.analytic.linear import inverse_of_affine
from leakgauge.core import Domain, Inapplicable, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, single, spread
from leakgauge.federated.isolation.untouched import output_of

AGREEMENT = 1e-9
"""Largest relative error at which the modules, called one after the other, count as the model."""
FLOAT64 = torch.zeros((), dtype=torch.float64)

_NOTHING = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
"""Modules that change no value. Dropout changes none in eval mode, which `chain_of` requires."""


@dataclass(frozen=True)
class ChainLayer:
    """One layer with a weight, and the modules between it and the next layer.

    Shapes are of one example.

    Args:
        name: Name of the layer.
        module: The layer.
        shape: Shape of the layer's input.
        output: Shape of the layer's output z.
        after: Elementwise functions that are applied to z, before the pool if there is one.
        pool: The max pool after `after`, or None if there is none. Its output has the shape
            `pooled`.
        then: Elementwise functions after the pool.
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
        """Shape of the pool's output, or `output` if there is no pool."""
        if self.pool is None:
            return self.output
        return tuple(self.pool(torch.zeros(1, *self.output, dtype=torch.float64)).shape[1:])

    def activate(self, z: Tensor) -> Tensor:
        """Return the input of the next layer `(*pooled)`, from the output z `(*output)`."""
        z = apply_modules(self.after, z)
        return z if self.pool is None else apply_modules((self.pool, *self.then), z)

    def back(self, delta: Tensor) -> Tensor:
        """Return the gradient at the layer's input `(*shape)`, from the gradient at its output `(*output)`."""
        x = torch.zeros((1, *self.shape), dtype=delta.dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.module(x), [x], delta.unsqueeze(0))
        return gradient[0]

    def deactivate(self, h: Tensor, *, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, a mask of its known entries, and the slope dh/dz, each `(*output)`.

        Args:
            h: `(*output)`, the result of the functions in `after`.
            noise: Least error of h, relative to its largest entry.
        """
        return invert_modules(self.after, h, noise=noise)


@dataclass(frozen=True)
class Chain:
    """A model as a chain of layers, in order from the input to the output.

    Args:
        layers: The layers.
        model: A copy of the model in float64.
        enter: Map from unit coordinates `(N, *shape)` to the first layer's input (N, F).
        invert: Inverse of `enter`.
        output: Shape of the model's output for one example.
    """

    layers: tuple[ChainLayer, ...]
    model: nn.Module
    enter: Callable[[Tensor], Tensor]
    invert: Callable[[Tensor], Tensor]
    output: tuple[int, ...]

    def finish(self, z: Tensor) -> Tensor:
        """Return the model's outputs `(N, *output)`, from the outputs z of its last layer."""
        for module in self.layers[-1].after:
            z = module(z)
        return z.reshape(-1, *self.output)


@dataclass(frozen=True)
class _Call:
    """One call of a module: its name, and the shapes of its input and output for one example."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    output: tuple[int, ...]


def chain_of(model: nn.Module, domain: Domain) -> Chain | Inapplicable:
    """Return `model` as a chain of layers for examples of `domain`, or the reason why it is not a chain."""
    for name, module in model.named_modules():
        if is_parametrized(module):
            return Inapplicable(
                f"the weight of {name!r} is parametrized (weight norm, spectral norm)"
            )
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return Inapplicable(f"{name!r} draws its own dropout mask")
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
            return Inapplicable(f"{name!r} normalizes by the batch's own statistics")
    model = doubled(model)
    calls = _calls(model, domain)
    if isinstance(calls, Inapplicable):
        return calls
    if not _is_sequence(model, calls, domain):
        return Inapplicable(
            "the model is not a sequence of its modules (it has skip connections, or functions that are not modules)"
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
    """Return the modules without children in the order of their calls, or the reason why they make no chain."""
    calls: list[_Call] = []
    others: list[str] = []

    def note(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        (given,) = arguments if len(arguments) == 1 else (None,)
        if not isinstance(given, Tensor) or not isinstance(output, Tensor):
            others.append(
                f"{name!r} ({type(module).__name__}) takes or returns more than one tensor"
            )
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
    """A module does not accept the output of the module before."""


def _through(calls: list[_Call], x: Tensor) -> Tensor:
    """Return the result of applying the modules to x (N, ...) in turn.

    Each input is reshaped to fit.

    Raises:
        _Unfit: The sizes do not match.
    """
    for call in calls:
        if x[0].numel() != torch.Size(call.shape).numel():
            raise _Unfit(call.name)
        with probing(f"{call.name!r}"):
            x = single(call.module(x.reshape(-1, *call.shape).clone()))
    return x


def _is_sequence(model: nn.Module, calls: list[_Call], domain: Domain) -> bool:
    """Return whether the modules, applied one after the other, give the model's output."""
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
    """Return the first layer's input, flat (N, F), for unit coordinates `(N, *shape)`."""
    return _through(calls, domain.from_unit(unit)).flatten(1)


def _layer(
    call: _Call, module: nn.Conv2d | nn.Linear, after: list[_Call]
) -> ChainLayer | Inapplicable:
    """Return a layer with the functions after it, or the reason why they cannot be inverted.

    `call` is the call of the layer `module`. `after` holds the calls up to the next layer.
    """
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros":
            return Inapplicable(
                f"the convolution {call.name!r} has groups, or pads with values other than 0"
            )
    elif len(call.shape) != 1:
        return Inapplicable(
            f"the linear layer {call.name!r} takes {len(call.shape)} axes an example, not one vector"
        )
    kept = [other for other in after if not isinstance(other.module, _NOTHING)]
    pools = [i for i, other in enumerate(kept) if _selects(other.module)]
    for i, other in enumerate(kept):
        if i in pools[:1]:
            continue
        if other.output != other.shape:
            return Inapplicable(
                f"{other.name!r} ({_kind(other)}) changes the shape: no equation has the values that it drops"
            )
        if inverse(other.module) is None and not isinstance(other.module, nn.ReLU):
            return Inapplicable(
                f"no way back is known from the output of {other.name!r} ({_kind(other)}) to its input"
            )
    modules = tuple(other.module for other in kept)
    if not pools:
        return ChainLayer(call.name, module, call.shape, call.output, modules)
    pool = modules[pools[0]]
    assert isinstance(pool, nn.MaxPool2d)
    before, then = modules[: pools[0]], modules[pools[0] + 1 :]
    return ChainLayer(call.name, module, call.shape, call.output, before, pool, then)


def _selects(module: nn.Module) -> bool:
    """Return whether a module is a max pool that returns values alone, with all windows inside the padded plane."""
    return isinstance(module, nn.MaxPool2d) and not module.ceil_mode and not module.return_indices


def why_pooled(chain: Chain) -> str | None:
    """Return why a max pool makes the recursion impossible, or None if there is no pool."""
    for layer in chain.layers:
        if layer.pool is not None:
            return f"a max pool follows {layer.name!r}: no equation has the values that it drops"
    return None


def _kind(call: _Call) -> str:
    """Return the name of the module's class."""
    return type(call.module).__name__
