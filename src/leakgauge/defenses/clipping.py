"""An update no longer than a bound (Abadi et al. 2016, algorithm 1, of the whole batch at once; Geyer et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Seeds, Tensors, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Clipping(Undefended):
    """g * min(1, norm / ||g||), ||g|| over all tensors; norm > 0 in the update's own units."""

    strength: ClassVar[str] = "norm"
    absolute: ClassVar[bool] = True
    claim: ClassVar[Claim] = Claim(
        "how long the update is, where it is longer than the bound",
        "whoever sees the update",
        "clips its own update alike: the direction is what it was",
    )
    norm: Positive = 1.0

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        scale = self._scale(update.tensors)
        return update.map(lambda t: t * scale.to(t))

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        def clip(simulated: Tensors) -> Tensors:
            scale = self._scale(simulated)
            return {name: t * scale.to(t) for name, t in simulated.items()}

        return clip

    def _scale(self, tensors: Tensors) -> Tensor:
        """min(1, norm / ||g||), differentiable; 1 for an update of zeros."""
        square = torch.stack([t.square().sum() for t in tensors.values()]).sum()
        length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
        return (self.norm / length).clamp(max=1.0)
