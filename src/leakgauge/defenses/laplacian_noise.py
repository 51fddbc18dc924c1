"""Laplacian noise on the update."""

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
    r"""Add Laplacian noise to each entry of the update.

    It acts on the finished update, before it leaves the client.

    .. math::

        \tilde g = g + \mathrm{Laplace}\left(0, \frac{\sigma}{\sqrt{2}}\right)

    Here :math:`g` is the update and :math:`\sigma` is `std`. The scale :math:`\sigma / \sqrt{2}`
    makes :math:`\sigma` the standard deviation, so that strengths compare with `GaussianNoise`. The
    noise of each entry is independent.

    An adaptive adversary matches by absolute differences. Under Laplacian noise this finds the most
    likely batch. The attack `BayesOptimal` adds a prior with the right weight.

    Args:
        std: Standard deviation, above 0, in the update's own units. The default is ours.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 5.1. arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.zeros(10000)})
        >>> noisy = lg.defenses.LaplacianNoise(std=0.1).on_update(update, seeds=lg.Seeds(0))
        >>> round(float(noisy.tensors["weight"].std()), 2)
        0.1
    """

    strength: ClassVar[str] = "std"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update, within the noise",
        "anyone who sees the update",
        "matches by absolute differences. Under Laplacian noise this finds the most likely batch",
    )
    std: Positive = 1e-2

    @property
    def effects(self) -> tuple[Effect, ...]:
        return InUpdateUnits(), Noise(std=self.std, law="laplacian")

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("laplacian noise")

        def add(t: Tensor) -> Tensor:
            # The difference of two exponential draws is a Laplace draw. It is always finite.
            draws = torch.empty((2, *t.shape), dtype=t.dtype).exponential_(generator=generator)
            return t + (self.std / 2**0.5) * (draws[0] - draws[1]).to(t)

        return update.map(add)
