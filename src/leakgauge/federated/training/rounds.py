"""The same batch trained on at successive models: one update a round, matched jointly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakgauge.core import Tensors
from leakgauge.federated.training.wrapper import StepsWrapper, Task


@dataclass(frozen=True, eq=False)
class Rounds(StepsWrapper):
    """`training` at the model of the first round and at the later `models`; shares all updates.

    Tensors of the first round bear the parameters' names; those of round t, the names and "@t".
    """

    models: tuple[nn.Module, ...]

    def update(self, task: Task) -> Tensors:
        """Return the updates of all rounds."""
        return joined([task.by(self.training, model=held) for held in (task.model, *self.models)])

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
