"""Laplacian noise on the shared update (Zhu et al. 2019, section 5.1: "noisy gradients")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, InUpdateUnits, Noise, Seeds, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class LaplacianNoise(Undefended):
    """g + Laplace(0, b) with b = std / sqrt(2), so that std > 0 means what it means for a Gaussian."""

    strength: ClassVar[str] = "std"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update within its noise",
        "whoever sees the update",
        "matches by absolute differences, the most likely batch under Laplacian noise",
    )
    std: Positive = 1e-2

    @property
    def effects(self) -> tuple[Effect, ...]:
        return InUpdateUnits(), Noise(std=self.std, law="laplacian")

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("laplacian noise")

        def add(t: Tensor) -> Tensor:
            # The difference of two exponential draws is a Laplace draw, finite at every uniform.
            draws = torch.empty((2, *t.shape), dtype=t.dtype).exponential_(generator=generator)
            return t + (self.std / 2**0.5) * (draws[0] - draws[1]).to(t)

        return update.map(add)
