"""Local training on the same batch in several rounds. The updates of all rounds are matched together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakgauge.core import Tensors
from leakgauge.federated.training.wrapper import StepsWrapper, Task


@dataclass(frozen=True, eq=False)
class Rounds(StepsWrapper):
    """Local training in several rounds, at successive models. The updates of all rounds are shared.

    Tensors of the first round, t = 0, have the names of the parameters. Tensors of a later round t have
    these names with "@t" added.

    Args:
        training: The local training of each round.
        models: The models of the second and all later rounds.
    """

    models: tuple[nn.Module, ...]

    def update(self, task: Task) -> Tensors:
        """Return the updates of all rounds."""
        return join_rounds(
            [task.by(self.training, model=held) for held in (task.model, *self.models)]
        )

    def __repr__(self) -> str:
        return f"Rounds(training={self.training!r}, rounds={1 + len(self.models)})"


def join_rounds(updates: list[Tensors]) -> Tensors:
    """Return the tensors of all rounds in one dictionary, with "@t" added to the names of round t > 0."""
    return {
        name if t == 0 else f"{name}@{t}": tensor
        for t, update in enumerate(updates)
        for name, tensor in update.items()
    }


def split_rounds(tensors: Tensors, names: list[str]) -> list[Tensors]:
    """Return the tensors of each round, the inverse of `join_rounds`. `names` are those of the parameters."""
    count = len(tensors) // len(names)
    return [
        {name: tensors[name if t == 0 else f"{name}@{t}"] for name in names} for t in range(count)
    ]
