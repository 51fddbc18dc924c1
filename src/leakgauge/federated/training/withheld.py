"""Local training that is not told: that there were steps shows, which ones does not."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.core import KnowledgeError, LocalTraining, Tensors, UpdateKind
from leakgauge.federated.training.rounds import Rounds
from leakgauge.federated.training.wrapper import Operator, Task


@dataclass(frozen=True)
class Withheld(Operator):
    """Stands for the local training of an adversary who is not granted its hyperparameters."""

    kind: UpdateKind = "delta"

    def update(self, task: Task) -> Tensors:
        """Raise KnowledgeError: the steps are not known, so that nothing can be simulated."""
        raise KnowledgeError(
            "observation",
            expected="known local steps, to simulate them",
            found="a threat model that withholds the local training's hyperparameters",
            remedy="grant them with hyperparameters = true, or take surrogate_model",
        )


def is_withheld(training: LocalTraining) -> bool:
    """Whether the local training cannot be simulated, for want of its hyperparameters."""
    inner = training.training if isinstance(training, Rounds) else training
    return isinstance(inner, Withheld)
