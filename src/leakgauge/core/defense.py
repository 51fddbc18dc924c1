"""The contract of defenses, of their claims and of combinations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.protocols import LocalTraining
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update


@runtime_checkable
class Defense(Protocol):
    """The contract of defenses. A defense acts at four seams of the client's work.

    `adapt` is for an adaptive adversary, an adversary that knows the defense. A class of your own
    satisfies the contract with these five methods. It may also have `effects`, a tuple of `Effect`.
    They describe as data how the defense changes what the adversary observes (`core/effects.py`).

    Example:
        >>> import leakgauge as lg
        >>> isinstance(lg.defenses.GaussianNoise(std=0.1), lg.Defense)
        True
    """

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Seam 1, the data: return the inputs `(B, *shape)` and targets (B,) or (B, K) to train on."""
        ...

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Seam 2, the model: return the network that the server and the client use."""
        ...

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        """Seam 3, the gradient computation: return the local training to run."""
        ...

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        """Seam 4, the finished update: return the update to share."""
        ...

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Return the map that an adaptive adversary applies to a simulated update before comparing it.

        Args:
            observed: The update to which the simulated one is compared.
        """
        ...


@dataclass(frozen=True)
class Claim:
    """The claim of a defense, in three lines for a reader of the report.

    Args:
        hides: What the defense hides.
        whom: From whom it hides it.
        adversary: What an adaptive adversary does against it.
    """

    hides: str
    whom: str
    adversary: str


@runtime_checkable
class Combined(Defense, Protocol):
    """Several defenses that act one after the other.

    Without `effects` of its own, it has its parts' effects.
    """

    @property
    def defenses(self) -> tuple[Defense, ...]:
        """The defenses, in the order in which they act."""
        ...

    def of(self, defenses: tuple[Defense, ...]) -> Defense:
        """Return the same kind of combination of other defenses."""
        ...


def parts_of(defense: Defense | None) -> tuple[Defense, ...]:
    """Return the parts of a defense in their order.

    A defense that is not a combination is its own single part. Without a defense, the result is
    empty.
    """
    if defense is None:
        return ()
    if not isinstance(defense, Combined):
        return (defense,)
    return tuple(part for inner in defense.defenses for part in parts_of(inner))
