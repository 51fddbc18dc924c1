"""Defenses one after the other: what one gives, the next takes."""

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
    defended_update,
    effects_in_order,
    effects_of,
)
from leakgauge.core.seams import defended_batch, defended_training
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Chain(Undefended):
    """`defenses` in their order at every seam, each with draws of its own; who knows them goes through them alike."""

    claim: ClassVar[Claim] = Claim(
        "what its parts hide",
        "whom they hide it from",
        "simulates each part in its order, by what was observed at the end of all",
    )
    defenses: tuple[Defense, ...] = ()

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Return those of the parts in their order. If any part keeps a memory, the chain does."""
        own = effects_in_order(self.defenses)
        kept = any(effects_of(defense, RoundMemory) for defense in self.defenses)
        return (*own, RoundMemory(remember=self.remember)) if kept else own

    def of(self, defenses: tuple[Defense, ...]) -> Chain:
        """The chain of others."""
        return replace(self, defenses=defenses)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        for i, defense in enumerate(self.defenses):
            inputs, targets = defended_batch(defense, inputs, targets, seeds=seeds.child(str(i)))
        return inputs, targets

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        for i, defense in enumerate(self.defenses):
            model = defense.on_model(model, seeds=seeds.child(str(i)))
        return model

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        for i, defense in enumerate(self.defenses):
            training = defended_training(defense, training, seeds=seeds.child(str(i)))
        return training

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return self.remember(update, {}, seeds=seeds)[0]

    def remember(
        self, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """Each part keeps its own memory, under its place."""
        kept: Tensors = {}
        for i, defense in enumerate(self.defenses):
            own = {n.removeprefix(f"{i}/"): t for n, t in memory.items() if n.startswith(f"{i}/")}
            update, after = defended_update(defense, update, own, seeds=seeds.child(str(i)))
            kept |= {f"{i}/{name}": t for name, t in after.items()}
        return update, kept

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Each one's, by what was observed at the end of all."""
        each = [defense.adapt(observed) for defense in self.defenses]

        def through(simulated: Tensors) -> Tensors:
            for one in each:
                simulated = one(simulated)
            return simulated

        return through
