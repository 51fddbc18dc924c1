"""Share the largest entries alone (Lin et al. 2018, deep gradient compression; Zhu et al. 2019, section 5.1)."""

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
    """Zero the smallest magnitudes of each tensor: the share `sparsity` in [0, 1) of its entries."""

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the entries of the update of least magnitude",
        "whoever sees the update",
        "compares the entries that were sent: which they are, the update shows",
    )
    sparsity: Fraction = 0.2

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map(lambda t: largest(t, self.sparsity))

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)


def largest(t: Tensor, sparsity: float) -> Tensor:
    """A tensor without the share `sparsity` of its entries of least magnitude; ties fall in their order."""
    dropped = int(sparsity * t.numel())
    order = t.abs().flatten().argsort(stable=True)
    kept = t.flatten().clone()
    kept[order[:dropped]] = 0
    return kept.view_as(t)
