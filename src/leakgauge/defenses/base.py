"""The defense that does nothing at each seam: others override the seam that they use."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leakgauge.core import Claim, Effect, LocalTraining, Seeds, SpecificationError, Tensors, Update


@dataclass(frozen=True)
class Undefended:
    """Identity at all four seams. Subclasses are frozen dataclasses that override one of them.

    strength: the field that a figure puts on its axis. claim: what the defense hides, for a reader. effects: what it
    does to what is seen, for an adaptive adversary.
    """

    strength: ClassVar[str | None] = None
    claim: ClassVar[Claim] = Claim("nothing", "nobody", "takes the update as it is")

    @property
    def effects(self) -> tuple[Effect, ...]:
        return ()

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        return inputs, targets

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        return model

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        return training

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return lambda simulated: simulated


def not_one_gradient(
    defense: object, training: LocalTraining, *, remedy: str = "train by fedsgd"
) -> SpecificationError:
    """Return the error of a defense that acts on one gradient, under a local training that shares something else."""
    return SpecificationError(
        f"defense {type(defense).__name__}",
        expected="a client that shares one gradient",
        found=f"an update of kind {training.kind!r}",
        remedy=remedy,
    )


def keep_observed_support(observed: Update) -> Callable[[Tensors], Tensors]:
    """Zero what the observed update zeroes: how an adversary simulates any sparsification."""
    masks = {name: (t != 0).to(t.dtype) for name, t in observed.tensors.items()}
    return lambda simulated: {name: t * masks[name] for name, t in simulated.items()}


def zeroed(tensors: Tensors, names: Container[str]) -> Tensors:
    """The tensors, those of these names all zeros."""
    return {name: torch.zeros_like(t) if name in names else t for name, t in tensors.items()}
