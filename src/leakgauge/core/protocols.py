"""The contracts of local training and of losses. A user's own class satisfies one by having its methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, UpdateKind

Loss = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class LocalTraining(Protocol):
    """The forward operator: model and batch in, update out. Clients train by it, adversaries simulate it."""

    @property
    def kind(self) -> UpdateKind: ...

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """The update of one batch: inputs (B, *shape), targets (B,) or (B, K). Leaves the model as it was."""
        ...


@runtime_checkable
class Shuffled(LocalTraining, Protocol):
    """Local training that visits the examples in an order of its own, which the client draws."""

    @property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """The order of each epoch, where drawn."""
        ...

    def drawn(self, count: int, *, seeds: Seeds) -> LocalTraining:
        """The same training of `count` examples, its orders drawn."""
        ...


@runtime_checkable
class LocalSteps(LocalTraining, Protocol):
    """Local training of several steps, whose update is a weight difference."""

    @property
    def weight_decay(self) -> float:
        """What each step adds of the parameters to the gradient."""
        ...

    def taken(self, count: int) -> int:
        """How many steps a client takes on `count` examples, at most."""
        ...

    def multiplier(self, count: int) -> float:
        """What the update of `count` examples is of a gradient that stays the same, but for the sign."""
        ...

    def whole(self, count: int) -> bool:
        """Whether each step sees all of `count` examples, so that their order does not matter."""
        ...


@runtime_checkable
class SingleGradient(LocalTraining, Protocol):
    """Local training whose update is one gradient: it can be compiled, batched, and differentiated forward."""

    def scalar(
        self, model: nn.Module, loss: Loss, parameters: Tensors, inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """The function of `parameters` whose gradient is the update."""
        ...
