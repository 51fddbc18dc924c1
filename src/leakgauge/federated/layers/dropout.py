"""Dropout in a forward pass: find its masks, switch them off, or set them.

PyTorch draws a mask m in each call, and returns `x * m / (1 - p)` with `m ~ Bernoulli(1 - p)`. It
does not reveal the mask. Here each call is intercepted. So a module and a call of
`torch.nn.functional.dropout` in a forward are treated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from leakgauge.core import Observation, deep_copy, trainable, unit_shape
from leakgauge.federated.isolation.probing import probing, spread
from leakgauge.federated.layers.bottleneck import at_mean, is_sampling
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.rounds import Rounds

_ENTRIES = frozenset({functional.dropout, torch.dropout})
_CHANNELS = frozenset(
    {functional.dropout1d, functional.dropout2d, functional.dropout3d, torch.feature_dropout}
)
_ALPHA = frozenset({functional.alpha_dropout, functional.feature_alpha_dropout})
_ATTENTION = {
    functional.scaled_dot_product_attention: 4,
    functional.multi_head_attention_forward: 10,
}
"""Functions that draw masks internally, with the position of their argument `dropout_p`."""


@dataclass(frozen=True)
class Call:
    """One call that draws a mask in a forward pass.

    Args:
        function: Name of the function.
        p: Probability of a zero, in (0, 1).
        shape: Shape of the mask, which broadcasts over the input. None if the mask cannot be set from
            outside.
    """

    function: str
    p: float
    shape: tuple[int, ...] | None


class DropoutMode(TorchFunctionMode):
    """A mode in which `answer` replaces each call that would draw a mask."""

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        """Return the result of the call on `inputs`."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `answer` instead of a function that draws a mask, and any other function itself."""
        given = kwargs or {}
        if func in _ATTENTION:
            place = _ATTENTION[func]
            p = args[place] if len(args) > place else given.get("dropout_p", 0.0)
            if p > 0 and given.get("training", True):
                self.answer(Call(func.__name__, p, None), args[0])
                if len(args) > place:
                    args = (*args[:place], 0.0, *args[place + 1 :])
                else:
                    given = {**given, "dropout_p": 0.0}
        elif func in _ENTRIES | _CHANNELS | _ALPHA:
            p, training, in_place = _options(args, given)
            inputs: Tensor = args[0] if args else given["input"]
            if training and 0 < p < 1:
                call = Call(func.__name__, p, _mask_shape(func, inputs))
                if not in_place:
                    return self.answer(call, inputs)
                # The answer may keep its input for the backward pass, so it gets a copy.
                return inputs.copy_(self.answer(call, inputs.clone()))
        return func(*args, **given)


def _options(args: tuple[Any, ...], given: dict[str, Any]) -> tuple[float, bool, bool]:
    """Return the arguments p, training and inplace of a call."""
    names = ("p", "training", "inplace")
    placed = {**dict(zip(names, args[1:], strict=False)), **given}
    return placed.get("p", 0.5), placed.get("training", True), placed.get("inplace", False)


def _mask_shape(func: Callable[..., Any], inputs: Tensor) -> tuple[int, ...] | None:
    """Return the shape of the mask that a call draws, or None if the mask cannot be set."""
    if func in _ALPHA:
        return None
    if func in _ENTRIES:
        return tuple(inputs.shape)
    # dropout1d takes an input of two axes for one example without a batch, and masks the first axis.
    kept = 1 if func is functional.dropout1d and inputs.ndim == 2 else 2
    return (*inputs.shape[:kept], *(1 for _ in inputs.shape[kept:]))


class Still(DropoutMode):
    """A mode in which dropout returns its input unchanged. `calls` lists the calls that would have drawn a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        """Record the call, and return the input unchanged."""
        self.calls.append(call)
        return inputs


class Masked(DropoutMode):
    """A mode in which the calls use given masks m, one after the other: `x * m / (1 - p)`."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self.left = list(masks)

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        """Return the input times the next mask, scaled by `1 / (1 - p)`."""
        return inputs * self.left.pop(0) / (1 - call.p)


def drawn_masks(
    observation: Observation, count: int | None = None, *, before: str | None = None
) -> list[Call]:
    """Return the calls that draw masks in a forward pass of `count` examples.

    Args:
        observation: The observation, with its model.
        count: Number of examples. The default is the batch size if it is known, else 2.
        before: Name of a module. Only calls before this module runs are returned. The default is all
            calls.

    Raises:
        ProbeError: The model fails on the probe.
    """
    model = observation.model
    if not any(module.training for module in model.modules()):
        return []
    if before is not None:
        model = deep_copy(model)
    count = count or observation.knowledge.batch_size or 2
    still, seen = Still(), list[int]()
    with ExitStack() as inside, torch.no_grad(), probing():
        if before is not None:
            model.get_submodule(before).register_forward_pre_hook(
                lambda *_: seen.append(len(still.calls))
            )
        # Other random numbers in the model must not advance the program's generator.
        inside.enter_context(torch.random.fork_rng(devices=[]))
        inside.enter_context(still)
        stateless(model, trainable(model), make_probes(observation, count))
    return still.calls[: seen[0]] if seen else still.calls


def make_probes(observation: Observation, count: int) -> Tensor:
    """Return `count` examples `(count, *shape)` of the domain in the model's type, the same in every call."""
    return observation.domain.from_unit(
        spread(unit_shape(observation.domain), count, tensor_like_inputs(observation))
    )


def tensor_like_inputs(observation: Observation) -> Tensor:
    """Return a tensor with the type and device of the model's inputs."""
    like = observation.update.like
    return next(observation.model.parameters(), like)


def mean_network(observation: Observation) -> Observation:
    """Return the observation with a model that draws no dropout masks and no bottleneck codes.

    If the model draws neither, the observation is returned unchanged. All other layers keep their
    mode. With new masks or codes in each step, simulated updates would differ by chance, and a
    descent would follow this noise.
    """
    if is_sampling(observation.model):
        return mean_network(_mapped(observation, at_mean))
    return _mapped(observation, _still) if drawn_masks(observation) else observation


def _mapped(observation: Observation, change: Callable[[nn.Module], nn.Module]) -> Observation:
    """Return the observation with `change` applied to the model of each round."""
    training = observation.training
    if isinstance(training, Rounds):
        training = replace(training, models=tuple(map(change, training.models)))
    return replace(observation, model=change(observation.model), training=training)


def _still(model: nn.Module) -> nn.Module:
    """Return a copy of the model that draws no masks."""
    return with_forward(model, _StillForward)


@dataclass(frozen=True)
class _StillForward:
    """A forward pass without dropout."""

    forward: Callable[..., Any]

    def __call__(self, inputs: Tensor) -> Any:
        """Return the output of the forward pass without dropout."""
        with Still():
            return self.forward(inputs)


def with_forward(
    model: nn.Module, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> nn.Module:
    """Return a copy of the model whose forward is `around(forward)`. Names of parameters do not change."""
    after = deep_copy(model)
    own = type(after).__call__
    if own is nn.Module.__call__:
        after.forward = around(after.forward)
    else:
        after.__class__ = _calling(type(after), around)
    return after


def _calling(
    kind: type[nn.Module], around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> type[nn.Module]:
    """Return a subclass of `kind` with a new `__call__`.

    A module that overrides `__call__` would not use a new `forward`.
    """
    own = kind.__call__

    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return around(partial(own, self))(*args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": called})
