"""Several defenses, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from leakgauge.core import (
    Claim,
    Defense,
    Effect,
    LocalTraining,
    RoundMemory,
    Seeds,
    Tensors,
    Update,
    defend_update,
    effects_in_order,
    effects_of,
)
from leakgauge.core.seams import defend_batch, defend_training
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Chain(Undefended):
    r"""Apply several defenses, one after the other.

    At each step of local training, the output of one defense is the input of the next. Each defense
    draws its own random numbers.

    .. math::

        u = D_k(\dots D_2(D_1(g)) \dots)

    Here :math:`g` is the gradient or update, and :math:`D_1, \dots, D_k` are the defenses. The same
    holds for the batch, the model and the gradient computation.

    An adaptive adversary simulates the parts in the same order. It observes only the output of the
    last part, so the simulation of every part adapts to that output.

    Args:
        defenses: The defenses in their order. An empty tuple changes nothing.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([3.0, 4.0])})
        >>> parts = (lg.defenses.TopK(sparsity=0.5), lg.defenses.Clipping(norm=1.0))
        >>> lg.defenses.Chain(defenses=parts).on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([0., 1.])
    """

    claim: ClassVar[Claim] = Claim(
        "what its parts hide",
        "those from whom its parts hide it",
        "simulates each part in the same order, from what was observed after the last one",
    )
    defenses: tuple[Defense, ...] = ()

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Effects of the parts in their order. If any part keeps a memory, the chain keeps one too."""
        own = effects_in_order(self.defenses)
        kept = any(effects_of(defense, RoundMemory) for defense in self.defenses)
        return (*own, RoundMemory(remember=self.remember)) if kept else own

    def of(self, defenses: tuple[Defense, ...]) -> Chain:
        """Return a chain of other defenses."""
        return replace(self, defenses=defenses)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        for i, defense in enumerate(self.defenses):
            inputs, targets = defend_batch(defense, inputs, targets, seeds=seeds.child(str(i)))
        return inputs, targets

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        for i, defense in enumerate(self.defenses):
            model = defense.on_model(model, seeds=seeds.child(str(i)))
        return model

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        for i, defense in enumerate(self.defenses):
            training = defend_training(defense, training, seeds=seeds.child(str(i)))
        return training

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return self.remember(update, {}, seeds=seeds)[0]

    def remember(
        self, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """Return the update and the memory. Each part keeps its own memory, under its place in the chain."""
        kept: Tensors = {}
        for i, defense in enumerate(self.defenses):
            own = {n.removeprefix(f"{i}/"): t for n, t in memory.items() if n.startswith(f"{i}/")}
            update, after = defend_update(defense, update, own, seeds=seeds.child(str(i)))
            kept |= {f"{i}/{name}": t for name, t in after.items()}
        return update, kept

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Return the simulations of all parts, one after the other. Each adapts to the output of the last part."""
        each = [defense.adapt(observed) for defense in self.defenses]

        def through(simulated: Tensors) -> Tensors:
            for one in each:
                simulated = one(simulated)
            return simulated

        return through
