"""Local training that is not told: that there were steps shows, which ones does not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from leakgauge.core import KnowledgeError, LocalTraining, Loss, Tensors, UpdateKind
from leakgauge.federated.training.rounds import Rounds


@dataclass(frozen=True)
class Withheld:
    """Stands for the local training of an adversary who is not granted its hyperparameters."""

    kind: UpdateKind = "delta"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """Raises KnowledgeError: nobody can simulate what nobody told."""
        raise KnowledgeError(
            "observation",
            expected="known local steps, to simulate them",
            found="a threat model that withholds the local training's hyperparameters",
            remedy="grant them with hyperparameters = true, or take surrogate_model",
        )


def untold(training: LocalTraining) -> bool:
    """Whether the local training cannot be simulated, for want of its hyperparameters."""
    inner = training.training if isinstance(training, Rounds) else training
    return isinstance(inner, Withheld)
