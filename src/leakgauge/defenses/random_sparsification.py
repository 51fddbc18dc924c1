"""A random part of the update's entries."""

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
    r"""Set random entries of the update to zero.

    It acts on the finished update, before it leaves the client. The entries that are kept stay
    unscaled.

    .. math::

        \tilde g_i = m_i \, g_i, \qquad m_i \sim \mathrm{Bernoulli}(1 - s)

    Here :math:`g_i` is an entry of the update, and :math:`s` is `sparsity`. The masks :math:`m_i`
    are independent.

    An adaptive adversary compares only the entries that were sent. The update shows their places.

    Args:
        sparsity: Probability that an entry becomes zero, in [0, 1). The default is ours.

    References:
        Konečný, McMahan, Yu, Richtárik, Suresh, Bacon. Federated Learning: Strategies for Improving
        Communication Efficiency. 2016, "random mask". arXiv:1610.05492.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.ones(10000)})
        >>> sparse = lg.defenses.RandomSparsification(sparsity=0.2).on_update(update, seeds=lg.Seeds(0))
        >>> round(float((sparse.tensors["weight"] == 0).float().mean()), 1)
        0.2
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "a random part of the entries of the update",
        "anyone who sees the update",
        "compares only the entries that were sent. The update shows their places",
    )
    sparsity: Fraction = 0.2

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("random sparsification")
        return update.map(
            lambda t: t * (torch.rand(t.shape, generator=generator) >= self.sparsity).to(t)
        )

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)
