"""Deep gradient compression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, RoundMemory, Seeds, Tensors, Update
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, keep_observed_support
from leakgauge.defenses.top_k import keep_largest


@dataclass(frozen=True, kw_only=True)
class DGC(Undefended):
    r"""Send only large entries, and accumulate the rest for later rounds (deep gradient compression).

    It acts on the finished update. Entries that are not sent wait in the client's memory until
    enough has accumulated.

    .. math::

        u \leftarrow m u + g, \qquad v \leftarrow v + u, \qquad \tilde g = \mathrm{largest}(v),
        \qquad u_i, v_i \leftarrow 0 \;\text{ where } \tilde g_i \ne 0

    Here :math:`g` is the update, :math:`m` is `momentum`, :math:`u` the velocity, :math:`v` the
    accumulated rest, and :math:`\tilde g` the part that is sent. All are zero before the first round.
    `remember` keeps :math:`u` under "momentum/" and :math:`v` under "residual/", followed by the
    parameter's name.

    The paper raises `sparsity` slowly at the start of training. Set that in the training. For its
    local clipping, put `Clipping` before this defense in a `Chain`.

    An adaptive adversary compares only the entries that were sent. The update shows their places.
    It does not know the values that accumulated in earlier rounds, so they act as an error.

    Args:
        sparsity: Fraction of each tensor's entries that is not sent, in [0, 1). The default is the
            paper's 99.9%.
        momentum: Factor of the velocity, in [0, 1). The default is usual for SGD.

    References:
        Lin, Han, Mao, Wang, Dally. Deep Gradient Compression: Reducing the Communication Bandwidth
        for Distributed Training. ICLR 2018, section 3, algorithm 4. arXiv:1712.01887.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> defense = lg.defenses.DGC(sparsity=0.5)
        >>> update = lg.Update({"a": torch.tensor([3.0, 4.0])})
        >>> sent, memory = defense.remember(update, {}, seeds=lg.Seeds(0))
        >>> sent.tensors["a"], memory["residual/a"]
        (tensor([0., 4.]), tensor([3., 0.]))
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the entries of least magnitude, until enough has accumulated in them",
        "anyone who sees the update",
        "compares only the entries that were sent. The update shows their places. What accumulated in earlier rounds "
        "counts as an error",
    )
    sparsity: Fraction = 0.999
    momentum: Fraction = 0.9

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (RoundMemory(remember=self.remember),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return self.remember(update, {}, seeds=seeds)[0]

    def remember(
        self, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """Return what is sent, and the memory after it. An empty `memory` counts as zeros."""
        sent, kept = {}, {}
        for name, gradient in update.tensors.items():
            nothing = torch.zeros_like(gradient)
            velocity = self.momentum * memory.get(f"momentum/{name}", nothing) + gradient
            gathered = memory.get(f"residual/{name}", nothing) + velocity
            sent[name] = keep_largest(gathered, self.sparsity)
            waiting = sent[name] == 0
            kept[f"momentum/{name}"] = velocity * waiting
            kept[f"residual/{name}"] = gathered * waiting
        return Update(sent, update.kind), kept

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)
