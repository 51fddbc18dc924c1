"""The contracts of local training and of losses. A class of your own satisfies one if it has its methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, UpdateKind

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function from model outputs and targets to a scalar, the loss of a batch."""


@runtime_checkable
class LocalTraining(Protocol):
    """The contract of local training: a function from a model and a batch to an update.

    It is the forward operator of an attack. Clients train with it, and adversaries simulate it.
    `FedSGD` and `FedAvg` satisfy it.

    Example:
        >>> import leakgauge as lg
        >>> isinstance(lg.FedSGD(), lg.LocalTraining)
        True
    """

    @property
    def kind(self) -> UpdateKind:
        """Kind of the update: "gradient", or "delta" for a weight difference."""
        ...

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """Return the update of one batch. The model is left unchanged.

        Args:
            model: The network to train.
            loss: The loss of the training.
            inputs: Examples `(B, *shape)`.
            targets: Class indices (B,) or targets (B, K).
            create_graph: Whether the update can be differentiated with respect to the inputs and
                the targets.
        """
        ...


@runtime_checkable
class Shuffled(LocalTraining, Protocol):
    """Local training that visits the examples in an order that the client draws."""

    @property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """Order of the examples in each epoch, as indices. Empty if no order has been drawn yet."""
        ...

    def draw_orders(self, count: int, *, seeds: Seeds) -> LocalTraining:
        """Return the same training with its orders drawn, for `count` examples."""
        ...


@runtime_checkable
class LocalSteps(LocalTraining, Protocol):
    """Local training in several steps, whose update is a weight difference."""

    @property
    def weight_decay(self) -> float:
        """Weight decay of each step. The step adds this multiple of the parameters to the gradient."""
        ...

    def count_steps(self, count: int) -> int:
        """Return the largest number of steps that a client takes on `count` examples."""
        ...

    def multiplier(self, count: int) -> float:
        """Return the ratio of the update of `count` examples to a gradient that stays constant.

        It is positive, although a weight difference points against the gradient.
        """
        ...

    def ignores_order(self, count: int) -> bool:
        """Return whether each step uses all `count` examples, so that their order does not matter."""
        ...


@runtime_checkable
class SingleGradient(LocalTraining, Protocol):
    """Local training whose update is one gradient.

    It can be compiled, batched, and differentiated in forward mode.
    """

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """Return the value at `parameters` of the scalar function whose gradient is the update."""
        ...
