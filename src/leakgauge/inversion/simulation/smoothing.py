r"""A smooth replacement of ReLU, ReLU6 and hardtanh in the adversary's own simulation.

The second derivative of a ReLU network ignores, almost everywhere, that its masks change. Where
they change, the gradient jumps, and a line search fails. The function
:math:`w \operatorname{softplus}(z / w)` is within :math:`w \log 2` of ReLU. A function with two bends
is the difference of two of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from leakgauge.core import (
    Loss,
    Observation,
    SingleGradient,
    Tensors,
    trainable,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.layers.dropout import make_probes
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.wrapper import Task, Wrapper

_RELUS = frozenset({functional.relu, torch.relu, Tensor.relu})
_IN_PLACE = frozenset({functional.relu_, torch.relu_, Tensor.relu_, functional.hardtanh_})
_HARD = frozenset({functional.hardtanh, functional.hardtanh_})
_KNOWN = _RELUS | _IN_PLACE | _HARD | {functional.relu6}


@dataclass(frozen=True)
class Bend:
    """One call of ReLU, ReLU6 or hardtanh: linear between `low` and `high`, and constant outside.

    Args:
        inputs: The argument of the function.
        low: Value below which the function is constant.
        high: Value above which the function is constant.
        in_place: Whether the function writes to its argument.
    """

    inputs: Tensor
    low: float
    high: float
    in_place: bool

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Bend:
        """Return the bend of a call of one of the known functions."""
        bounds = ("min_val", "max_val") if func in _HARD else ()
        call = {**dict(zip(("input", *bounds, "inplace"), args, strict=False)), **given}
        low, high = (-1.0, 1.0) if func in _HARD else (0.0, math.inf)
        if func is functional.relu6:
            high = 6.0
        in_place = func in _IN_PLACE or call.get("inplace", False)
        return cls(call["input"], call.get("min_val", low), call.get("max_val", high), in_place)

    def smooth(self, width: float) -> Tensor:
        """Return the value of the function with its bends smoothed over this width."""
        # Softplus keeps its input for the backward pass, so this input must not be overwritten.
        z = self.inputs.clone() if self.in_place else self.inputs
        found = self.low + functional.softplus(z - self.low, beta=1 / width)
        if self.high < math.inf:
            found = found - functional.softplus(z - self.high, beta=1 / width)
        return self.inputs.copy_(found) if self.in_place else found


class SmoothReLU(TorchFunctionMode):
    """A mode in which every ReLU is `w softplus(z / w)`. Its attribute `met` counts the replaced calls.

    Args:
        width: The width w, above 0, in units of the ReLU's input.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width
        self.met = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func not in _KNOWN:
            return func(*args, **given)
        self.met += 1
        return Bend.of(func, args, given).smooth(self.width)


def runs_relu(observation: Observation) -> bool:
    """Return whether a forward pass of the model runs a ReLU of any form, as a module or a function."""
    model, smooth = observation.model, SmoothReLU(1.0)
    # Random draws of the model must not change the program's own generator.
    count = observation.knowledge.batch_size or 2
    with torch.no_grad(), torch.random.fork_rng(devices=[]), probing(), smooth:
        stateless(model, trainable(model), make_probes(observation, count))
    return smooth.met > 0


@dataclass(frozen=True)
class SmoothTraining(Wrapper):
    """Local training in which every ReLU is smooth.

    Args:
        training: The local training.
        width: Width of the bends, in units of a ReLU's input.
    """

    width: float

    def update(self, task: Task) -> Tensors:
        """Return the update of one batch, as the training itself computes it."""
        with SmoothReLU(self.width):
            return task.by(self.training)


@dataclass(frozen=True)
class SmoothGradient(SmoothTraining):
    """One gradient of a network in which every ReLU is smooth.

    Args:
        training: The local training, which shares one gradient.
        width: Width of the bends, in units of a ReLU's input.
    """

    training: SingleGradient

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """Return the scalar function of `parameters` whose gradient is the update."""
        with SmoothReLU(self.width):
            return self.training.scalar(model, loss, parameters, inputs, targets)


def smooth_relus(observation: Observation, width: float) -> Observation:
    """Return the observation with smooth ReLUs in the adversary's simulation, or unchanged if `width` is 0."""
    if width == 0:
        return observation
    training = observation.training
    if isinstance(training, SingleGradient):
        return replace(observation, training=SmoothGradient(training, width))
    return replace(observation, training=SmoothTraining(training, width))
