"""Gaussian noise on the shared update (Zhu et al. 2019, section 5.1: "noisy gradients")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from leakgauge.core import Claim, Effect, InUpdateUnits, Noise, Seeds, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Undefended):
    """g + N(0, std^2), independently for each entry; std > 0 in the gradient's own units."""

    strength: ClassVar[str] = "std"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update within its noise",
        "whoever sees the update",
        "matches by squares, the most likely batch under Gaussian noise",
    )
    std: Positive = 1e-2

    @property
    def effects(self) -> tuple[Effect, ...]:
        return InUpdateUnits(), Noise(std=self.std)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("gaussian noise")
        return update.map(
            lambda t: t + self.std * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t)
        )
