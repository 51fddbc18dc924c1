"""What an adversary holds: the model, the update, the protocol and the knowledge granted. No truth."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from leakgauge.core.defense import Defense
from leakgauge.core.domain import Domain
from leakgauge.core.effects import Noise
from leakgauge.core.errors import KnowledgeError
from leakgauge.core.protocols import LocalTraining, Loss
from leakgauge.core.stated import mean_noise
from leakgauge.core.summaries import Summarized
from leakgauge.core.update import Tensors, Update


@dataclass(frozen=True, kw_only=True, repr=False)
class Knowledge(Summarized):
    """What a threat model grants beyond model, protocol and update; None means not granted."""

    batch_size: int | None = None
    labels: Tensor | None = None  # (B,) class indices, or targets (B, K)
    label_counts: Tensor | None = None  # (K,) how many examples of each class
    defense: Defense | None = None
    order: tuple[tuple[int, ...], ...] | None = None  # of the examples in each local epoch
    hyperparameters: LocalTraining | None = None  # how many local steps, at which rates
    statistics: Tensors | None = None  # BatchNorm's buffers after training, by name

    @classmethod
    def names(cls) -> frozenset[str]:
        """Everything that can be granted."""
        return frozenset(field.name for field in fields(cls))

    def granted(self) -> frozenset[str]:
        """The names of what is granted here."""
        return frozenset(name for name in self.names() if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True, repr=False)
class Observation(Summarized):
    """All that an attack is given. Made by a ThreatModel alone; nothing in it refers to the batch.

    `clients`: of how many clients the update is the mean, weighted by their examples.
    `unsteady`: why a simulation of the same batch gives another update, in one line, or None if it gives the same.
    """

    model: nn.Module
    loss: Loss
    training: LocalTraining
    update: Update
    domain: Domain
    classes: int | None
    knowledge: Knowledge
    clients: int = 1
    unsteady: str | None = None

    @property
    def has_signal(self) -> bool:
        """Whether any entry of the update differs from zero."""
        return any(bool(t.any()) for t in self.update.tensors.values())

    def not_one_gradient(self) -> str | None:
        """Why what reads one gradient cannot read this update, in one line; None where it may."""
        if self.training.kind == "gradient":
            return None
        return f"needs one gradient, not an update of kind {self.training.kind!r}"

    def not_one_example(self) -> str | None:
        """Why what reads one example's gradient cannot read this update; None where it may."""
        several = f"recovers one example: batch {self.batch_size} > 1"
        return self.not_one_gradient() or (several if self.batch_size > 1 else None)

    @property
    def noise(self) -> Noise | None:
        """Return the noise that the known defense left on each entry, or None if none is known.

        Each of several clients adds noise of its own. They hold parts of the batch as equal as can be.
        """
        total, counts = self.knowledge.batch_size, list[int | None]([None] * self.clients)
        if total is not None:
            counts = [len(part) for part in torch.arange(total).tensor_split(self.clients)]
        return mean_noise(self, counts)

    @property
    def batch_size(self) -> int:
        """B, where granted. Raises KnowledgeError where it is not."""
        if self.knowledge.batch_size is None:
            raise KnowledgeError(
                "observation",
                expected="a known batch size",
                found="a threat model that withholds it",
                remedy="grant it with batch_size = true",
            )
        return self.knowledge.batch_size
