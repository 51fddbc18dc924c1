"""The contracts between rooms. A user's own class satisfies one by having its methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, UpdateKind

if TYPE_CHECKING:
    from leakgauge.core.observation import Observation
    from leakgauge.core.reconstruction import Reconstruction

Loss = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[float], None]


def silent(fraction: float) -> None:
    """The progress callback of callers that show none."""


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


@runtime_checkable
class Attack(Protocol):
    """An observation in, a reconstruction out. Never sees the truth."""

    @property
    def requires(self) -> frozenset[str]:
        """Names of knowledge (fields of `Knowledge`) without which the attack cannot start."""
        ...

    def inapplicable(self, observation: Observation) -> str | None:
        """Why this attack cannot be run on this observation, in one line; None where it can."""
        ...

    def evaluations(self, observation: Observation) -> int:
        """Most simulated updates that a run will compute: the cost that a plan is made from."""
        ...

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        """Reconstruct the batch; `progress` is told the share done, in [0, 1]."""
        ...
