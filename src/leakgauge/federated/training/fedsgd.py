"""FedSGD: one gradient of one batch. Also functions that run any local training.

Local training is the forward operator of the inverse problem. The client runs it to train. The
adversary runs an equal one to simulate the client.
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
    r"""One gradient of the loss over one batch, which the client shares.

    .. math::

        g = \nabla_\theta L(f_\theta(x), y)

    Here :math:`f_\theta` is the model with the trainable parameters :math:`\theta`. The batch has the
    inputs :math:`x` and the targets :math:`y`. Its loss :math:`L` is usually a mean over the examples.
    `FedAvg` takes several steps instead.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017 (FedSGD). arXiv:1602.05629.

    Example:
        >>> import leakgauge as lg
        >>> lg.examples.observation(training=lg.FedSGD()).update.kind
        'gradient'
    """

    @property
    def kind(self) -> UpdateKind:
        """The word "gradient"."""
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
        """Return the gradient of the loss by parameter name. Buffers, such as running statistics, do not change.

        Args:
            model: The network.
            loss: A function of outputs and targets.
            inputs: Examples `(B, *shape)`.
            targets: Targets (B,) or (B, K).
            create_graph: Whether the result can be differentiated with respect to inputs and targets.

        Raises:
            ModelError: The loss is not a scalar, or does not depend on the parameters.
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
        """Return the loss as a function of `parameters`. Its gradient is the update.

        Raises:
            ModelError: The loss is not a scalar.
        """
        output = stateless(model, parameters, inputs)
        value = value_of(loss, output, targets)
        check_scalar(value)
        return value


def with_orders(training: LocalTraining, count: int, *, seeds: Seeds) -> LocalTraining:
    """Return the training with drawn orders for `count` examples, or unchanged if it does not shuffle."""
    return training.draw_orders(count, seeds=seeds) if isinstance(training, Shuffled) else training


def stateless(model: nn.Module, parameters: Tensors, inputs: Tensor) -> Tensor:
    """Return the model's output at `parameters` for inputs `(B, *shape)`, without a trace in model or inputs.

    Each call starts from the same buffers and attributes. This holds for the client's training and for
    every simulation of it.
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
    """Run `training`, and leave no trace in the model, the loss, the batch or the training.

    Args:
        training: Any local training.
        model: The network.
        loss: A function of outputs and targets.
        inputs: Examples `(B, *shape)`.
        targets: Targets (B,) or (B, K).
        create_graph: Whether the result can be differentiated with respect to inputs and targets.

    Returns:
        The update by parameter name.
    """
    # Local training of this library runs the model only through `stateless`, which leaves no trace.
    ours = is_our_class(type(training))
    if ours:
        return training(model, loss, inputs, targets, create_graph=create_graph)
    with untouched(model, loss, training):
        # A user's local training may write to its arguments.
        return training(model, loss, inputs.clone(), targets.clone(), create_graph=create_graph)


def check_differentiable(value: Tensor) -> None:
    """Raise ModelError unless a loss depends on the model's trainable parameters."""
    if not value.requires_grad:
        raise ModelError(
            "loss",
            expected="a differentiable function of the model's parameters",
            found="a value without a gradient",
            remedy="use a differentiable loss, and a forward without no_grad or argmax",
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
