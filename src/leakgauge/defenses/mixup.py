"""Mixup. Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, ICLR 2018, figure 1.

    x~ = lambda x + (1 - lambda) x_pi      y~ = lambda y + (1 - lambda) y_pi      lambda ~ Beta(alpha, alpha)

one lambda and one permutation pi a batch, y as rows of one 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from leakgauge.core import Claim, Effect, MixedExamples, Seeds
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Mixup(Undefended):
    """Each example mixed with another, its target alike; `alpha` in [1e-2, 1e3], 1 as the paper's on CIFAR-10.

    lambda is taken as at least 1/2: (1 - lambda) and the inverse permutation make the same set of mixtures.
    A permutation has fixed points, which stay as they are; a batch of one is not mixed.
    """

    strength: ClassVar[str] = "alpha"
    claim: ClassVar[Claim] = Claim(
        "each example within a mixture of two",
        "whoever sees the update",
        "finds mixtures with their soft labels, reads from those who was mixed with whom, and solves for the examples",
    )
    alpha: Annotated[float, Ge(1e-2), Le(1e3)] = 1.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (MixedExamples(per_mixture=2, weights=self.weights),)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Mixtures of inputs (B, *shape) and of targets (B,) or (B, K), numbers both."""
        weights = self.weights(len(inputs), seeds=seeds).to(inputs)
        return (
            torch.einsum("ij,j...->i...", weights, inputs),
            torch.einsum("ij,j...->i...", weights, targets),
        )

    def weights(self, count: int, *, seeds: Seeds) -> Tensor:
        """lambda I + (1 - lambda) P, (B, B)."""
        fraction = self._share(seeds)
        order = torch.randperm(count, generator=seeds.generator("mixup order"))
        return fraction * torch.eye(count) + (1 - fraction) * torch.eye(count)[order]

    def _share(self, seeds: Seeds) -> float:
        """lambda in [1/2, 1]."""
        # Torch's Beta has no generator of its own.
        with seeds.isolated("mixup share"):
            alpha = torch.tensor(self.alpha, dtype=torch.float64)
            drawn = float(torch.distributions.Beta(alpha, alpha).sample())
        return max(drawn, 1 - drawn)
