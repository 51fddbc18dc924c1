"""The defense that changes nothing, from which all others derive."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leakgauge.core import Claim, Effect, LocalTraining, Seeds, SpecificationError, Tensors, Update


@dataclass(frozen=True)
class Undefended:
    """Change nothing. This is the control for every defense.

    It is the identity at all four steps where a defense can act: the batch, the model, the gradient
    computation and the finished update. Other defenses derive from it and override the steps that
    they use. A subclass is a frozen dataclass.

    An adaptive adversary has nothing to adapt to. It matches the update unchanged.

    A subclass may set three attributes. `strength` names the option that figures put on their axis.
    `claim` tells a reader what the defense hides. `effects` tells an adaptive adversary, as data,
    what the defense changes.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([3.0, 4.0])})
        >>> lg.defenses.Undefended().on_update(update, seeds=lg.Seeds(0)) is update
        True
    """

    strength: ClassVar[str | None] = None
    claim: ClassVar[Claim] = Claim("nothing", "nobody", "matches the update unchanged")

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Changes to the adversary's view, as data for an adaptive adversary. By default there are none."""
        return ()

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return the inputs `(B, *shape)` and the targets on which the client trains."""
        return inputs, targets

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return the network that server and client both use."""
        return model

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        """Return the local training that the client runs."""
        return training

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        """Return the update that leaves the client."""
        return update

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Return a function that does to a simulated update what this defense did to `observed`."""
        return lambda simulated: simulated


def not_one_gradient(
    defense: object, training: LocalTraining, *, remedy: str = "train by fedsgd"
) -> SpecificationError:
    """Return the error for a defense that works only with one shared gradient.

    Args:
        defense: The defense.
        training: The local training of the client.
        remedy: What the user can do.
    """
    return SpecificationError(
        f"defense {type(defense).__name__}",
        expected="a client that shares one gradient",
        found=f"an update of kind {training.kind!r}",
        remedy=remedy,
    )


def keep_observed_support(observed: Update) -> Callable[[Tensors], Tensors]:
    """Return a function that zeroes the entries of a simulated update that are zero in `observed`.

    This is how an adversary simulates any sparsification.
    """
    masks = {name: (t != 0).to(t.dtype) for name, t in observed.tensors.items()}
    return lambda simulated: {name: t * masks[name] for name, t in simulated.items()}


def zero_named(tensors: Tensors, names: Container[str]) -> Tensors:
    """Return the tensors, with those that `names` holds set to zero."""
    return {name: torch.zeros_like(t) if name in names else t for name, t in tensors.items()}
