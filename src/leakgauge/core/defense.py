"""The contract of defenses."""

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
    """What a client does against leakage, at four seams, and what an adversary who knows it does in turn.

    Optional: `effects`, a tuple of `Effect`s, says as data what the defense does to what is seen (core/effects.py).
    """

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Seam 1, the data: inputs (B, *shape) and targets (B,) or (B, K) as trained on."""
        ...

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Seam 2, the model: the network that server and client both use."""
        ...

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        """Seam 3, the gradient computation."""
        ...

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        """Seam 4, the finished update."""
        ...

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """What a knowing adversary applies to a simulated update before comparing it with `observed`."""
        ...


@dataclass(frozen=True)
class Claim:
    """What a defense hides, from whom, and what an adversary does who knows it: a line each, for a reader."""

    hides: str
    whom: str
    adversary: str


@runtime_checkable
class Combined(Defense, Protocol):
    """Several defenses that act one after the other. If it states no `effects`, it has those of its parts."""

    @property
    def defenses(self) -> tuple[Defense, ...]:
        """In their order."""
        ...

    def of(self, defenses: tuple[Defense, ...]) -> Defense:
        """The same combination of others."""
        ...


def parts_of(defense: Defense | None) -> tuple[Defense, ...]:
    """A defense's parts in their order: itself, where it is not several; none where there is none."""
    if defense is None:
        return ()
    if not isinstance(defense, Combined):
        return (defense,)
    return tuple(part for inner in defense.defenses for part in parts_of(inner))
