"""A smooth stand-in for ReLU in the adversary's own simulation.

Almost everywhere the second derivative of a ReLU network leaves out that its masks move, and where
they do, the gradient jumps. A line search finds no way there. softplus(z / w) w is within w log 2 of ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from leakgauge.core import LocalTraining, Loss, Observation, SingleGradient, Tensors, UpdateKind

_RELUS = frozenset({functional.relu, torch.relu, Tensor.relu})
_IN_PLACE = frozenset({functional.relu_, torch.relu_, Tensor.relu_})


class SmoothReLU(TorchFunctionMode):
    """Inside, every ReLU that runs is w softplus(z / w), w = `width` in units of its input."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func not in _RELUS | _IN_PLACE:
            return func(*args, **given)
        inputs = args[0] if args else given["input"]
        asked = given.get("inplace", False) or (len(args) > 1 and args[1])
        if not asked and func not in _IN_PLACE:
            return functional.softplus(inputs, beta=1 / self.width)
        # Softplus keeps its input for backward: it gets one that is not written to.
        return inputs.copy_(functional.softplus(inputs.clone(), beta=1 / self.width))


@dataclass(frozen=True)
class SmoothTraining:
    """Local training in which every ReLU is smooth."""

    training: LocalTraining
    width: float

    @property
    def kind(self) -> UpdateKind:
        return self.training.kind

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """The update of one batch, as the training itself computes it."""
        with SmoothReLU(self.width):
            return self.training(model, loss, inputs, targets, create_graph=create_graph)


@dataclass(frozen=True)
class SmoothGradient(SmoothTraining):
    """One gradient of a network in which every ReLU is smooth."""

    training: SingleGradient

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """The function of `parameters` whose gradient is the update."""
        with SmoothReLU(self.width):
            return self.training.scalar(model, loss, parameters, inputs, targets)


def smoothed(observation: Observation, width: float) -> Observation:
    """The observation with the adversary's own simulation smooth; as it was where `width` is 0."""
    if width == 0:
        return observation
    training = observation.training
    if isinstance(training, SingleGradient):
        return replace(observation, training=SmoothGradient(training, width))
    return replace(observation, training=SmoothTraining(training, width))
