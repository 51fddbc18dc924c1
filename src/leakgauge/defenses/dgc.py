"""Deep gradient compression. Lin, Han, Mao, Wang, Dally: Deep Gradient Compression, ICLR 2018, section 3, algorithm 4.

u <- m u + g,    v <- v + u,    sent: the largest entries of v,    where sent:  v <- 0,  u <- 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, RoundMemory, Seeds, Tensors, Update
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, keep_observed_support
from leakgauge.defenses.top_k import largest


@dataclass(frozen=True, kw_only=True)
class DGC(Undefended):
    """Send the largest entries of what has gathered: all but the share `sparsity` in [0, 1) of each tensor.

    `momentum` in [0, 1): momentum correction, with momentum factor masking. Error feedback: what is not sent
    waits for a later round. `remember` keeps u ("momentum/" + name) and v ("residual/" + name). The warm-up
    of `sparsity` is the training's, local clipping a `Clipping` before this in a `Chain`.
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the entries of least magnitude, until enough has gathered in them",
        "whoever sees the update",
        "compares the entries that were sent: which they are, the update shows; what "
        "gathered in earlier rounds it counts among errors",
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
        """What is sent, and u and v after it; both are zero where `memory` is empty."""
        sent, kept = {}, {}
        for name, gradient in update.tensors.items():
            nothing = torch.zeros_like(gradient)
            velocity = self.momentum * memory.get(f"momentum/{name}", nothing) + gradient
            gathered = memory.get(f"residual/{name}", nothing) + velocity
            sent[name] = largest(gathered, self.sparsity)
            waiting = sent[name] == 0
            kept[f"momentum/{name}"] = velocity * waiting
            kept[f"residual/{name}"] = gathered * waiting
        return Update(sent, update.kind), kept

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(observed)
