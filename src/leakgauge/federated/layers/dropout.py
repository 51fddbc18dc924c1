"""Dropout in a forward pass: where masks are drawn, a network that draws none, and one whose masks are given.

PyTorch draws a mask in each call, x * m / (1 - p) with m ~ Bernoulli(1 - p), and keeps it to itself. Calls are
caught where they are made, so that a module and torch.nn.functional.dropout in a forward are alike.
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

from leakgauge.core import Observation, copied, trainable, unit_shape
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
"""What draws inside, and the place of its argument dropout_p."""


@dataclass(frozen=True)
class Call:
    """One mask that a forward pass draws: by which function, with which probability p of a zero, of which shape.

    `shape` broadcasts over the function's input; None where the mask cannot be given from outside.
    """

    function: str
    p: float
    shape: tuple[int, ...] | None


class DropoutMode(TorchFunctionMode):
    """Inside, each call that would draw a mask is told to `answer` instead."""

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        """What the call returns."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
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
                # The answer may keep its input for backward: it gets one that is not written to.
                return inputs.copy_(self.answer(call, inputs.clone()))
        return func(*args, **given)


def _options(args: tuple[Any, ...], given: dict[str, Any]) -> tuple[float, bool, bool]:
    """p, training and inplace of a call of any of the functions."""
    names = ("p", "training", "inplace")
    placed = {**dict(zip(names, args[1:], strict=False)), **given}
    return placed.get("p", 0.5), placed.get("training", True), placed.get("inplace", False)


def _mask_shape(func: Callable[..., Any], inputs: Tensor) -> tuple[int, ...] | None:
    if func in _ALPHA:
        return None
    if func in _ENTRIES:
        return tuple(inputs.shape)
    # dropout1d takes two axes for one example without a batch, and masks the first.
    kept = 1 if func is functional.dropout1d and inputs.ndim == 2 else 2
    return (*inputs.shape[:kept], *(1 for _ in inputs.shape[kept:]))


class Still(DropoutMode):
    """Inside, no dropout drops anything: the mean network. `calls` is what would have been drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        self.calls.append(call)
        return inputs


class Masked(DropoutMode):
    """Inside, the calls take these masks, in their order: x * m / (1 - p)."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self.left = list(masks)

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        return inputs * self.left.pop(0) / (1 - call.p)


def drawn_masks(
    observation: Observation, count: int | None = None, *, before: str | None = None
) -> list[Call]:
    """Return the masks that a forward pass of `count` examples draws: all, or those before module `before` runs.

    The default count is the batch size where it is known: the model ran on as many at the client.

    Raises:
        ProbeError: the model fails on the probe.
    """
    model = observation.model
    if not any(module.training for module in model.modules()):
        return []
    if before is not None:
        model = copied(model)
    count = count or observation.knowledge.batch_size or 2
    still, seen = Still(), list[int]()
    with ExitStack() as inside, torch.no_grad(), probing():
        if before is not None:
            model.get_submodule(before).register_forward_pre_hook(
                lambda *_: seen.append(len(still.calls))
            )
        # What else is random in the model must not move the generator of the program.
        inside.enter_context(torch.random.fork_rng(devices=[]))
        inside.enter_context(still)
        stateless(model, trainable(model), probes(observation, count))
    return still.calls[: seen[0]] if seen else still.calls


def probes(observation: Observation, count: int) -> Tensor:
    """Return `count` examples (count, *shape) of the domain, as the model takes them, the same in every call."""
    return observation.domain.from_unit(
        spread(unit_shape(observation.domain), count, taken(observation))
    )


def taken(observation: Observation) -> Tensor:
    """Return a tensor of the type and device that the model takes."""
    like = observation.update.like
    return next(observation.model.parameters(), like)


def mean_network(observation: Observation) -> Observation:
    """The observation whose own copy of the model draws nothing, in dropout or in a variational bottleneck.

    As it was where neither draws. Nothing else leaves train mode. Masks or codes drawn anew would make each
    simulated update another, and a descent would follow chance.
    """
    if is_sampling(observation.model):
        return mean_network(_mapped(observation, at_mean))
    return _mapped(observation, _still) if drawn_masks(observation) else observation


def _mapped(observation: Observation, change: Callable[[nn.Module], nn.Module]) -> Observation:
    """The observation with each round's model changed."""
    training = observation.training
    if isinstance(training, Rounds):
        training = replace(training, models=tuple(map(change, training.models)))
    return replace(observation, model=change(observation.model), training=training)


def _still(model: nn.Module) -> nn.Module:
    return with_forward(model, _StillForward)


@dataclass(frozen=True)
class _StillForward:
    """A forward pass without dropout."""

    forward: Callable[..., Any]

    def __call__(self, inputs: Tensor) -> Any:
        with Still():
            return self.forward(inputs)


def with_forward(
    model: nn.Module, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> nn.Module:
    """A copy of the model with around(forward) for its forward; names of parameters stay as they are."""
    after = copied(model)
    own = type(after).__call__
    if own is nn.Module.__call__:
        after.forward = around(after.forward)
    else:
        after.__class__ = _calling(type(after), around)
    return after


def _calling(
    kind: type[nn.Module], around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> type[nn.Module]:
    """Return a subclass for a module that overrides `__call__`, where a new `forward` would not be asked."""
    own = kind.__call__

    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return around(partial(own, self))(*args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": called})
