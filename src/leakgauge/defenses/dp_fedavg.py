"""DP-FedAvg. McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018,
algorithm 1; here each client adds a share of the noise itself.

    client u:     d_u min(1, S / ||d_u||)  +  N(0, (z S)^2 / C)
    mean of C:    the paper's, under N(0, (z S / C)^2)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from leakgauge.core import Claim, Effect, InUpdateUnits, Noise, PrivacyBound, Seeds, Tensors, Update
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.defenses.accounting import rdp_epsilon
from leakgauge.defenses.base import Undefended
from leakgauge.defenses.clipping import Clipping
from leakgauge.defenses.gaussian_noise import GaussianNoise


@dataclass(frozen=True, kw_only=True)
class DPFedAvg(Undefended):
    """The whole update clipped at `max_norm` > 0, in its own units, and Gaussian noise added to each entry.

    The noise's standard deviation is noise_multiplier * max_norm / sqrt(clients).
    `clients` = 1: each update is private by itself (local DP). C: the noises of C clients add up to that of the
    paper's server, which must see no more than their sum, as behind secure aggregation: one update by itself has
    but a share. Behind an aggregation, who knows it simulates the bound on the mean, not each client's. The
    defaults are ours.
    """

    strength: ClassVar[str] = "noise_multiplier"
    claim: ClassVar[Claim] = Claim(
        "whether any one client took part, whatever its examples, within epsilon",
        "whoever sees the mean of so many clients' updates; with one, whoever sees the update",
        "clips its own update alike, and matches by squares, the most likely batch under Gaussian noise",
    )
    max_norm: Positive = 1.0
    noise_multiplier: NonNegative = 1.0
    clients: Count = 1

    @property
    def effects(self) -> tuple[Effect, ...]:
        bound = PrivacyBound(protects="client", epsilon=self.epsilon)
        return InUpdateUnits(), Noise(std=self.std), bound

    @property
    def std(self) -> float:
        """The standard deviation of one client's noise on each entry of its update."""
        return self.noise_multiplier * self.max_norm / math.sqrt(self.clients)

    @property
    def clipping(self) -> Clipping:
        """Its first part."""
        return Clipping(norm=self.max_norm)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        clipped = self.clipping.on_update(update, seeds=seeds)
        return GaussianNoise(std=self.std).on_update(clipped, seeds=seeds) if self.std else clipped

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return self.clipping.adapt(observed)

    def epsilon(self, *, steps: int, sample_rate: float = 1.0, delta: float) -> float:
        """The epsilon of (epsilon, delta)-differential privacy after so many rounds, by Opacus' RDP accountant.

        Neighbors differ in one client, there or not. `sample_rate` in (0, 1]: with which probability each takes
        part in a round; below 1 it counts only where nobody sees who did. Of clients of unlike weight in the mean,
        those above the average are protected less. Infinite without noise. Raises SpecificationError without Opacus.
        """
        return rdp_epsilon(
            self.noise_multiplier,
            steps=steps,
            sample_rate=sample_rate,
            delta=delta,
            of="DPFedAvg",
        )
