"""Clipping of the whole update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from leakgauge.core import Claim, Effect, InUpdateUnits, Seeds, Tensors, Update
from leakgauge.core.ranges import Positive
from leakgauge.defenses.base import Undefended
from leakgauge.federated.training.per_example import clipping_scale


@dataclass(frozen=True, kw_only=True)
class Clipping(Undefended):
    r"""Scale the update down if its Euclidean length exceeds a bound.

    It acts on the finished update, before it leaves the client. All tensors together count as one
    vector. An update shorter than the bound stays unchanged.

    .. math::

        \tilde g = g \, \min\left(1, \frac{C}{\|g\|_2}\right)

    Here :math:`g` is the update and :math:`C` is `norm`. Clipping alone hides only the length.
    Differential privacy clips first, and then adds noise.

    An adaptive adversary clips its simulated update in the same way. The direction of the update
    stays visible.

    Args:
        norm: Largest Euclidean length, above 0, in the update's own units. The default is ours.

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang. Deep Learning with Differential
        Privacy. CCS 2016, algorithm 1, there for each example. arXiv:1607.00133.

        Geyer, Klein, Nabi. Differentially Private Federated Learning: A Client Level Perspective.
        2017. arXiv:1712.07557.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([3.0, 4.0])})
        >>> lg.defenses.Clipping(norm=1.0).on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([0.6000, 0.8000])
    """

    strength: ClassVar[str] = "norm"
    claim: ClassVar[Claim] = Claim(
        "the length of the update, if it exceeds the bound",
        "anyone who sees the update",
        "clips its simulated update in the same way. The direction stays visible",
    )
    norm: Positive = 1.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (InUpdateUnits(),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        scale = clipping_scale(update.tensors, self.norm)
        return update.map(lambda t: t * scale.to(t))

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        def clip(simulated: Tensors) -> Tensors:
            scale = clipping_scale(simulated, self.norm)
            return {name: t * scale.to(t) for name, t in simulated.items()}

        return clip
