"""Share a random part of the entries (Konečný et al. 2016, "random mask")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from leakgauge.core import Claim, Seeds, Tensors, Update
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, keep_observed_support


@dataclass(frozen=True, kw_only=True)
class RandomSparsification(Undefended):
    """Zero each entry with probability `sparsity` in [0, 1)."""

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "a random part of the entries of the update",
        "whoever sees the update",
        "compares the entries that were sent: which they are, the update shows",
    )
    sparsity: Fraction = 0.2

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("random sparsification")
        return update.map(
            lambda t: t * (torch.rand(t.shape, generator=generator) >= self.sparsity).to(t)
        )

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)
