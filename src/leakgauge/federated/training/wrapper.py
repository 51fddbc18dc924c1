"""What local trainings around another one share: the signature of a call, the kind of update, the count of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from leakgauge.core import LocalSteps, LocalTraining, Loss, Tensors, UpdateKind
from leakgauge.federated.training.fedsgd import local_update


@dataclass(frozen=True, eq=False)
class Task:
    """What a local training is called with: inputs (B, *shape), targets (B,) or (B, K)."""

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor
    create_graph: bool = False

    def by(self, training: LocalTraining, **changes: Any) -> Tensors:
        """Return the update of `training` on this task, with the fields in `changes` replaced. It leaves no trace."""
        at = replace(self, **changes)
        return local_update(
            training, at.model, at.loss, at.inputs, at.targets, create_graph=at.create_graph
        )


class Operator(ABC):
    """A local training that computes its update from a task. A subclass implements `update`, and has a `kind`."""

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """Return the update of inputs (B, *shape), targets (B,) or (B, K). Leave the model as it was."""
        return self.update(Task(model, loss, inputs, targets, create_graph))

    @abstractmethod
    def update(self, task: Task) -> Tensors:
        """Return the update by parameter name."""


@dataclass(frozen=True, eq=False)
class Wrapper(Operator):
    """A local training around another, `training`, whose kind of update it keeps."""

    training: LocalTraining

    @property
    def kind(self) -> UpdateKind:
        return self.training.kind


class StepsWrapper(Wrapper):
    """A wrapper whose update is a mean over clients, and tells its steps as `LocalSteps` do.

    Steps of a training that tells none count as one step of size 1.
    """

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples each client holds: one client holds all."""
        return [count]

    @property
    def weight_decay(self) -> float:
        """What each step adds of the parameters to the gradient."""
        return self.training.weight_decay if isinstance(self.training, LocalSteps) else 0.0

    def taken(self, count: int) -> int:
        """Return how many steps a client takes on `count` examples, at most."""
        inner = self.training
        if not isinstance(inner, LocalSteps):
            return 1
        return max(inner.taken(size) for size in self.sizes(count))

    def multiplier(self, count: int) -> float:
        """Return the size of the update of `count` examples against a gradient that stays the same over all steps."""
        inner = self.training
        if not isinstance(inner, LocalSteps):
            return 1.0
        return sum(size / count * inner.multiplier(size) for size in self.sizes(count))

    def whole(self, count: int) -> bool:
        """Return whether each step sees all of `count` examples, so that their order does not matter."""
        return self.training.whole(count) if isinstance(self.training, LocalSteps) else True
