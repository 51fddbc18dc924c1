"""DP-FedAvg: each client clips its whole update and adds its part of the noise."""

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
    r"""Clip the whole update and add Gaussian noise (DP-FedAvg).

    It acts on the finished update. It gives differential privacy for a whole client: nobody can
    tell with certainty whether the client took part. In the paper the server adds the noise. Here
    each client adds its own part of it.

    .. math::

        \tilde d_u = d_u \, \min\left(1, \frac{S}{\|d_u\|_2}\right) + \mathcal{N}\left(0, \frac{(z S)^2}{C} I\right)

    Here :math:`d_u` is the update of client :math:`u`, :math:`S` is `max_norm`, :math:`z` is
    `noise_multiplier`, and :math:`C` is `clients`. The mean over :math:`C` clients then has the
    paper's noise, with standard deviation :math:`z S / C`.

    With `clients` = 1 each update is private by itself (local differential privacy). With more
    clients, each update holds only a part of the noise. Then the server must see nothing but the
    sum, as behind secure aggregation.

    An adaptive adversary clips its simulated update and matches by squared differences. Under
    Gaussian noise this finds the most likely batch. Behind an aggregation, it clips the simulated
    mean, not the update of each client.

    Args:
        max_norm: Largest Euclidean length of the update, above 0, in the update's own units. The
            default is ours.
        noise_multiplier: Standard deviation of the noise on the sum, at least 0, in units of
            `max_norm`. The default is ours.
        clients: Number of clients whose noise adds up, at least 1. The default is ours.

    References:
        McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models.
        ICLR 2018, algorithm 1. arXiv:1710.06963.

    Example:
        >>> import leakgauge as lg
        >>> lg.defenses.DPFedAvg(max_norm=0.5, noise_multiplier=2.0, clients=4).std
        0.5
    """

    strength: ClassVar[str] = "noise_multiplier"
    claim: ClassVar[Claim] = Claim(
        "whether any one client took part, within epsilon",
        "anyone who sees only the mean of all `clients` updates. With clients = 1, anyone who sees the update",
        "clips its simulated update and matches by squared differences. Under Gaussian noise this finds the most "
        "likely batch",
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
        """Standard deviation of one client's noise on each entry of its update."""
        return self.noise_multiplier * self.max_norm / math.sqrt(self.clients)

    @property
    def clipping(self) -> Clipping:
        """The clipping that comes before the noise."""
        return Clipping(norm=self.max_norm)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        clipped = self.clipping.on_update(update, seeds=seeds)
        return GaussianNoise(std=self.std).on_update(clipped, seeds=seeds) if self.std else clipped

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return self.clipping.adapt(observed)

    def epsilon(self, *, steps: int, sample_rate: float = 1.0, delta: float) -> float:
        """Return the epsilon of (epsilon, delta)-differential privacy after `steps` rounds.

        Neighboring data sets differ in one client, which is there or not. A client with more than
        the average weight in the mean is protected less. Epsilon is infinite if there is no noise.

        Args:
            steps: Number of rounds, at least 1.
            sample_rate: Probability in (0, 1] that a client takes part in a round. A value below 1
                helps only if nobody sees who took part.
            delta: Probability in (0, 1) with which the bound may fail.

        Raises:
            SpecificationError: The package opacus cannot be imported.
        """
        return rdp_epsilon(
            self.noise_multiplier,
            steps=steps,
            sample_rate=sample_rate,
            delta=delta,
            of="DPFedAvg",
        )
