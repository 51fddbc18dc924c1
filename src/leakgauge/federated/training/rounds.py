"""The same batch trained on at successive models: one update a round, matched jointly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from leakgauge.core import LocalSteps, LocalTraining, Loss, Tensors, UpdateKind
from leakgauge.federated.training.fedsgd import local_update


@dataclass(frozen=True, eq=False)
class Rounds:
    """`training` at the model of the first round and at the later `models`; shares all updates.

    Tensors of the first round bear the parameters' names; those of round t, the names and "@t".
    """

    training: LocalTraining
    models: tuple[nn.Module, ...]

    @property
    def kind(self) -> UpdateKind:
        return self.training.kind

    @property
    def weight_decay(self) -> float:
        """That of each round's training."""
        return self.training.weight_decay if isinstance(self.training, LocalSteps) else 0.0

    def taken(self, count: int) -> int:
        """How many steps each round takes."""
        inner = self.training
        return inner.taken(count) if isinstance(inner, LocalSteps) else 1

    def multiplier(self, count: int) -> float:
        """What each round's update is of a gradient that stays the same, but for the sign."""
        inner = self.training
        return inner.multiplier(count) if isinstance(inner, LocalSteps) else 1.0

    def whole(self, count: int) -> bool:
        """Whether each step sees all of `count` examples, so that their order does not matter."""
        inner = self.training
        return inner.whole(count) if isinstance(inner, LocalSteps) else True

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """The updates of all rounds; inputs (B, *shape), targets (B,) or (B, K). Leaves the models as they were."""
        return joined(
            [
                local_update(self.training, held, loss, inputs, targets, create_graph=create_graph)
                for held in (model, *self.models)
            ]
        )

    def __repr__(self) -> str:
        return f"Rounds(training={self.training!r}, rounds={1 + len(self.models)})"


def joined(updates: list[Tensors]) -> Tensors:
    """The tensors of all rounds under names of their own."""
    return {
        name if t == 0 else f"{name}@{t}": tensor
        for t, update in enumerate(updates)
        for name, tensor in update.items()
    }


def parted(tensors: Tensors, names: list[str]) -> list[Tensors]:
    """The tensors of each round; `names` are those of the parameters."""
    count = len(tensors) // len(names)
    return [
        {name: tensors[name if t == 0 else f"{name}@{t}"] for name in names} for t in range(count)
    ]
