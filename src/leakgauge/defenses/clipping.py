"""An update no longer than a bound (Abadi et al. 2016, algorithm 1, of the whole batch at once; Geyer et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from leakgauge.core import Claim, Effect, InUpdateUnits, Seeds, Tensors, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended
from leakgauge.federated.training.per_example import clipping_scale


@dataclass(frozen=True, kw_only=True)
class Clipping(Undefended):
    """g * min(1, norm / ||g||), ||g|| over all tensors; norm > 0 in the update's own units."""

    strength: ClassVar[str] = "norm"
    claim: ClassVar[Claim] = Claim(
        "how long the update is, where it is longer than the bound",
        "whoever sees the update",
        "clips its own update alike: the direction is what it was",
    )
    norm: Positive = 1.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (InUpdateUnits(),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        scale = clipping_scale(update.tensors, self.norm)
        return update.map(lambda t: t * scale.to(t))

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        def clip(simulated: Tensors) -> Tensors:
            scale = clipping_scale(simulated, self.norm)
            return {name: t * scale.to(t) for name, t in simulated.items()}

        return clip
