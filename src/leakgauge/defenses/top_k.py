"""Only the largest entries of the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from leakgauge.core import Claim, Seeds, Tensors, Update
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, keep_observed_support


@dataclass(frozen=True, kw_only=True)
class TopK(Undefended):
    r"""Set the smallest entries of each tensor of the update to zero.

    It acts on the finished update, before it leaves the client.

    .. math::

        \tilde g_i = g_i \;\text{ if } |g_i| \text{ is among the largest } (1 - s) \, d, \qquad
        \tilde g_i = 0 \;\text{ otherwise}

    Here :math:`g` is one tensor of the update with :math:`d` entries, and :math:`s` is `sparsity`.

    An adaptive adversary compares only the entries that were sent. The update shows their places.

    Args:
        sparsity: Fraction of each tensor's entries that becomes zero, in [0, 1), rounded down to
            whole entries. The default is ours.

    References:
        Lin, Han, Mao, Wang, Dally. Deep Gradient Compression: Reducing the Communication Bandwidth
        for Distributed Training. ICLR 2018. arXiv:1712.01887.

        As a defense: Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 5.
        arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([0.1, -3.0, 2.0, 0.2])})
        >>> lg.defenses.TopK(sparsity=0.5).on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([ 0., -3.,  2.,  0.])
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the entries of the update with the least magnitude",
        "anyone who sees the update",
        "compares only the entries that were sent. The update shows their places",
    )
    sparsity: Fraction = 0.2

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map(lambda t: keep_largest(t, self.sparsity))

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)


def keep_largest(t: Tensor, sparsity: float) -> Tensor:
    """Set the smallest entries of a tensor, a fraction `sparsity`, to zero. Of equal entries, the first goes first."""
    dropped = int(sparsity * t.numel())
    order = t.abs().flatten().argsort(stable=True)
    kept = t.flatten().clone()
    kept[order[:dropped]] = 0
    return kept.view_as(t)
