"""The mean of the examples' own gradients, each no longer than a bound (Abadi et al. 2016, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakgauge.core import Loss, ModelError, SingleGradient, Tensors
from leakgauge.federated.training.wrapper import Task, Wrapper


@dataclass(frozen=True)
class ClippedExamples(Wrapper):
    """The mean over examples b of g_b * min(1, max_norm / ||g_b||), ||g_b|| over all tensors, g_b by `training`.

    The client's forward operator and, without its noise, the adversary's: differentiable through the bound.
    """

    training: SingleGradient
    max_norm: float

    def update(self, task: Task) -> Tensors:
        """Return the mean by parameter name.

        Raises:
            ModelError: examples meet in the model, so that none has a gradient of its own.
        """
        if any(isinstance(m, _BatchNorm) and m.training for m in task.model.modules()):
            raise ModelError(
                "per-example gradients",
                expected="a model in which no example meets another",
                found="BatchNorm in train mode",
                remedy="set model.train = false, or use GroupNorm",
            )
        total: Tensors = {}
        for i in range(len(task.inputs)):
            one = slice(i, i + 1)
            own = task.by(self.training, inputs=task.inputs[one], targets=task.targets[one])
            scale = clipping_scale(own, self.max_norm) / len(task.inputs)
            for name, t in own.items():
                total[name] = total[name] + scale * t if name in total else scale * t
        return total

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """1/B sum_b c_b L_b, whose gradient is that mean: c_b = min(1, max_norm / ||g_b||) is held in `parameters`."""
        fixed = {name: p.detach() for name, p in parameters.items()}
        losses = []
        for i in range(len(inputs)):
            of_one = partial(self._loss, model, loss, inputs[i : i + 1], targets[i : i + 1])
            own: Tensors = torch.func.grad(of_one)(fixed)
            losses.append(clipping_scale(own, self.max_norm) * of_one(parameters))
        return torch.stack(losses).mean()

    def _loss(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, parameters: Tensors
    ) -> Tensor:
        return self.training.scalar(model, loss, parameters, inputs, targets)


def clipping_scale(tensors: Tensors, norm: float) -> Tensor:
    """min(1, norm / ||g||), ||g|| over all tensors, differentiable; 1 for an update of zeros."""
    square = torch.stack([t.square().sum() for t in tensors.values()]).sum()
    length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
    # Not norm / length: forward derivatives of a number over a scalar tensor come out in float64.
    return (torch.full_like(length, norm) / length).clamp(max=1.0)
