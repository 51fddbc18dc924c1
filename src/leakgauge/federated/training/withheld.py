"""Local training that the adversary does not know. It knows only that there were local steps."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.core import KnowledgeError, LocalTraining, Tensors, UpdateKind
from leakgauge.federated.training.rounds import Rounds
from leakgauge.federated.training.wrapper import Operator, Task


@dataclass(frozen=True)
class Withheld(Operator):
    """A stand-in for a local training whose hyperparameters the adversary does not know."""

    kind: UpdateKind = "delta"

    def update(self, task: Task) -> Tensors:
        """Raise KnowledgeError, since unknown steps cannot be simulated."""
        raise KnowledgeError(
            "observation",
            expected="known local steps, to simulate them",
            found="a threat model that withholds the local training's hyperparameters",
            remedy="grant them with hyperparameters = true, or use the attack surrogate_model",
        )


def is_withheld(training: LocalTraining) -> bool:
    """Return whether the local training cannot be simulated, since its hyperparameters are unknown."""
    inner = training.training if isinstance(training, Rounds) else training
    return isinstance(inner, Withheld)
