"""Local training: the forward operator of the inverse problem.

The client runs it to train, the adversary runs the very same object to simulate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakgauge.core import (
    LocalTraining,
    Loss,
    ModelError,
    Seeds,
    Shuffled,
    Tensors,
    UpdateKind,
    trainable,
)
from leakgauge.core.origin import is_our_class
from leakgauge.federated.isolation.untouched import untouched, value_of


@dataclass(frozen=True)
class FedSGD:
    """One gradient of the mean loss over one batch (McMahan et al. 2017, FederatedSGD)."""

    @property
    def kind(self) -> UpdateKind:
        return "gradient"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """dL/dtheta by parameter name; inputs (B, *shape), targets (B,) or (B, K).

        Raises ModelError where the loss is not a scalar. Buffers (running statistics) are left as they were.
        """
        parameters = trainable(model)
        value = self.scalar(model, loss, parameters, inputs, targets)
        check_differentiable(value)
        gradients = torch.autograd.grad(
            value, list(parameters.values()), create_graph=create_graph, materialize_grads=True
        )
        return dict(zip(parameters, gradients, strict=True))

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """The function of `parameters` whose gradient is the update. Raises ModelError where it is no scalar."""
        output = stateless(model, parameters, inputs)
        value = value_of(loss, output, targets)
        check_scalar(value)
        return value


def with_orders(training: LocalTraining, count: int, *, seeds: Seeds) -> LocalTraining:
    """The training of `count` examples with its orders drawn, where it shuffles; else as it is."""
    return training.drawn(count, seeds=seeds) if isinstance(training, Shuffled) else training


def stateless(model: nn.Module, parameters: Tensors, inputs: Tensor) -> Tensor:
    """Return the model's output at `parameters` for inputs (B, *shape), and leave no trace in either.

    Each call starts from the same buffers and attributes. That holds for the client's training and for every
    simulation of it.
    """
    with untouched(model):
        output: Tensor = functional_call(model, parameters, (inputs.clone(),))
    return output


def local_update(
    training: LocalTraining,
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    create_graph: bool = False,
) -> Tensors:
    """Run `training` and leave no trace in the model, the loss, the batch or the training.

    inputs (B, *shape), targets (B,) or (B, K).
    """
    # Training of this library runs the model through `stateless` alone.
    ours = is_our_class(type(training))
    if ours:
        return training(model, loss, inputs, targets, create_graph=create_graph)
    with untouched(model, loss, training):
        # Training of the user's own may write to what it is given.
        return training(model, loss, inputs.clone(), targets.clone(), create_graph=create_graph)


def check_differentiable(value: Tensor) -> None:
    """Raise ModelError unless a loss depends on the model's trainable parameters."""
    if not value.requires_grad:
        raise ModelError(
            "loss",
            expected="a differentiable function of the model's parameters",
            found="a value without a gradient",
            remedy="use a loss that can be trained on, and a forward without no_grad or argmax",
        )


def check_scalar(value: Tensor) -> None:
    """Raise ModelError unless a loss is a scalar tensor."""
    if not isinstance(value, Tensor) or value.ndim != 0:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(type(value))
        raise ModelError(
            "loss",
            expected="a scalar tensor: the mean over the batch",
            found=found,
            remedy="reduce it, as torch.nn.functional.cross_entropy does by default",
        )
