"""The mean of per-example gradients, each clipped to a norm."""

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
    r"""The mean of per-example gradients, each clipped to a norm.

    .. math::

        \frac{1}{B} \sum_{b=1}^B g_b \, \min(1, C / \|g_b\|)

    Here :math:`g_b` is the gradient of example :math:`b`, :math:`C` is `max_norm`, and the norm is over
    all tensors. The result is differentiable through the clipping. The client trains with it, and an
    adversary simulates it without noise.

    Args:
        training: The local training that computes the gradient of one example.
        max_norm: Largest norm of an example's gradient.

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang. Deep Learning with Differential
        Privacy. CCS 2016, algorithm 1. arXiv:1607.00133.
    """

    training: SingleGradient
    max_norm: float

    def update(self, task: Task) -> Tensors:
        """Return the mean by parameter name.

        Raises:
            ModelError: BatchNorm combines the examples of a batch, so no example has its own gradient.
        """
        if any(isinstance(m, _BatchNorm) and m.training for m in task.model.modules()):
            raise ModelError(
                "per-example gradients",
                expected="a model that computes each example independently of the others",
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
        """Return `1/B sum_b c_b L_b`. Its gradient at `parameters` is the mean of the clipped gradients.

        `L_b` is the loss of example b, and `c_b = min(1, max_norm / ||g_b||)` does not depend on
        `parameters`.
        """
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
        """Return the loss of one example as a function of `parameters`."""
        return self.training.scalar(model, loss, parameters, inputs, targets)


def clipping_scale(tensors: Tensors, norm: float) -> Tensor:
    """Return `min(1, norm / ||g||)` with the norm over all tensors, differentiable, and 1 for zeros."""
    square = torch.stack([t.square().sum() for t in tensors.values()]).sum()
    length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
    # `norm / length` would not do: in torch, the forward derivative of a number over a scalar
    # tensor is in float64.
    return (torch.full_like(length, norm) / length).clamp(max=1.0)
