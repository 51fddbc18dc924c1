"""Base classes of local trainings that wrap another one: the call, the kind of update, and the steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from leakgauge.core import LocalSteps, LocalTraining, Loss, Tensors, UpdateKind
from leakgauge.federated.training.fedsgd import local_update


@dataclass(frozen=True, eq=False)
class Task:
    """The arguments of a call of a local training.

    Args:
        model: The network.
        loss: A function of outputs and targets.
        inputs: Examples `(B, *shape)`.
        targets: Targets (B,) or (B, K).
        create_graph: Whether the update can be differentiated with respect to inputs and targets.
    """

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    create_graph: bool = False

    def by(self, training: LocalTraining, **changes: Any) -> Tensors:
        """Return the update of `training` on this task, with the fields in `changes` replaced."""
        at = replace(self, **changes)
        return local_update(
            training, at.model, at.loss, at.inputs, at.targets, create_graph=at.create_graph
        )


class Operator(ABC):
    """A local training that computes its update from a task. A subclass has a `kind` and implements `update`."""

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """Return the update of inputs `(B, *shape)` and targets (B,) or (B, K). The model does not change."""
        return self.update(Task(model, loss, inputs, targets, create_graph))

    @abstractmethod
    def update(self, task: Task) -> Tensors:
        """Return the update by parameter name."""


@dataclass(frozen=True, eq=False)
class Wrapper(Operator):
    """A local training that wraps another one, `training`, and has the same kind of update."""

    training: LocalTraining

    @property
    def kind(self) -> UpdateKind:
        """The kind of update of the wrapped training."""
        return self.training.kind


class StepsWrapper(Wrapper):
    """A wrapper whose update is a mean over clients. It states its steps, as `LocalSteps` requires.

    If the wrapped training does not state its steps, it counts as one step of size 1.
    """

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples each client holds. By default, one client holds all."""
        return [count]

    @property
    def weight_decay(self) -> float:
        """The factor of the parameters that each step adds to the gradient."""
        return self.training.weight_decay if isinstance(self.training, LocalSteps) else 0.0

    def count_steps(self, count: int) -> int:
        """Return the largest number of steps of a client, for `count` examples in total."""
        inner = self.training
        if not isinstance(inner, LocalSteps):
            return 1
        return max(inner.count_steps(size) for size in self.sizes(count))

    def multiplier(self, count: int) -> float:
        """Return the size of the update of `count` examples relative to a gradient constant over all steps."""
        inner = self.training
        if not isinstance(inner, LocalSteps):
            return 1.0
        return sum(size / count * inner.multiplier(size) for size in self.sizes(count))

    def ignores_order(self, count: int) -> bool:
        """Return whether each step uses all `count` examples, so that their order does not matter."""
        return self.training.ignores_order(count) if isinstance(self.training, LocalSteps) else True
