"""Gaussian noise on the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from leakgauge.core import Claim, Effect, InUpdateUnits, Noise, Seeds, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Undefended):
    r"""Add Gaussian noise to each entry of the update.

    It acts on the finished update, before it leaves the client.

    .. math::

        \tilde g = g + \mathcal{N}(0, \sigma^2 I)

    Here :math:`g` is the update and :math:`\sigma` is `std`. The noise of each entry is
    independent. Without clipping this gives no differential privacy, because the length of the
    update has no bound.

    An adaptive adversary matches by squared differences. Under Gaussian noise this finds the most
    likely batch. The attack `BayesOptimal` adds a prior with the right weight.

    Args:
        std: Standard deviation, above 0, in the update's own units. The default is ours.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 5.1. arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.zeros(10000)})
        >>> noisy = lg.defenses.GaussianNoise(std=0.1).on_update(update, seeds=lg.Seeds(0))
        >>> round(float(noisy.tensors["weight"].std()), 2)
        0.1
    """

    strength: ClassVar[str] = "std"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update, within the noise",
        "anyone who sees the update",
        "matches by squared differences. Under Gaussian noise this finds the most likely batch",
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
