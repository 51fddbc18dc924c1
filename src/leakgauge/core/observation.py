"""The adversary's view: the model, the update, the protocol and the knowledge granted, without the private batch."""

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
    """The knowledge that a threat model grants beyond the model, the protocol and the update.

    A threat model makes it. An attack reads it from `observation.knowledge`. A field is None if it
    is not granted.

    Args:
        batch_size: Number of private examples B.
        labels: Labels of the examples: class indices (B,) or targets (B, K). They are shuffled
            unless `order` is granted.
        label_counts: Number of examples of each class (K,).
        defense: The client's defense with its options.
        order: Order of the examples in each local epoch, one tuple of indices for each epoch.
        hyperparameters: The local training with its options, such as epochs and learning rate.
        statistics: Buffers of BatchNorm after the local training, by name.

    Example:
        >>> import leakgauge as lg
        >>> knowledge = lg.examples.observation(batch_size=2).knowledge
        >>> sorted(knowledge.granted())
        ['batch_size', 'hyperparameters', 'labels']
        >>> knowledge.labels.shape
        torch.Size([2])
        >>> knowledge.order is None
        True
    """

    batch_size: int | None = None
    labels: Tensor | None = None
    label_counts: Tensor | None = None
    defense: Defense | None = None
    order: tuple[tuple[int, ...], ...] | None = None
    hyperparameters: LocalTraining | None = None
    statistics: Tensors | None = None

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the names of all knowledge that can be granted."""
        return frozenset(field.name for field in fields(cls))

    def granted(self) -> frozenset[str]:
        """Return the names of the knowledge that is granted here."""
        return frozenset(name for name in self.names() if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True, repr=False)
class Observation(Summarized):
    """The adversary's view of one update. It is all that an attack receives.

    `ThreatModel.observe` makes it from a client and a private batch. Nothing in it refers to the
    batch. Pass it to an attack.

    Args:
        model: The network that the update was computed on.
        loss: The loss of the training.
        training: The local training, as far as the adversary knows it. It is the forward operator
            of attacks.
        update: The gradient or the weight difference that the adversary sees.
        domain: The domain of the private examples.
        classes: Number of classes K, or None if the targets are not classes.
        knowledge: The further knowledge that the threat model grants.
        clients: Number of clients. The update is the mean of their updates, weighted by their
            numbers of examples. The default is 1.
        unsteady: Reason, in one line, why a simulation of the same batch gives a different update.
            None, the default, if it gives the same update.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> observation.update.kind, observation.batch_size, observation.has_signal
        ('gradient', 2, True)
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
        """Return why a method that reads one gradient cannot run, in one line, or None if it can."""
        if self.training.kind == "gradient":
            return None
        return f"needs one gradient, not an update of kind {self.training.kind!r}"

    def not_one_example(self) -> str | None:
        """Return why a method that reads one example's gradient cannot run, or None if it can."""
        several = f"recovers one example only, and the batch has {self.batch_size}"
        return self.not_one_gradient() or (several if self.batch_size > 1 else None)

    @property
    def noise(self) -> Noise | None:
        """The noise that the known defense left on each entry, or None if no noise is known.

        Each client adds its own noise. The clients are assumed to hold parts of the batch of nearly
        equal sizes.
        """
        total, counts = self.knowledge.batch_size, list[int | None]([None] * self.clients)
        if total is not None:
            counts = [len(part) for part in torch.arange(total).tensor_split(self.clients)]
        return mean_noise(self, counts)

    @property
    def batch_size(self) -> int:
        """Number of private examples B.

        Raises:
            KnowledgeError: The threat model does not grant the batch size.
        """
        if self.knowledge.batch_size is None:
            raise KnowledgeError(
                "observation",
                expected="a known batch size",
                found="a threat model that does not grant it",
                remedy="grant it with batch_size = true",
            )
        return self.knowledge.batch_size
