"""PRECODE. Scheliga, Mäder, Seeland: PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage, WACV 2022.

A variational bottleneck before the last linear layer: the gradients of the bottleneck and of what follows it
depend on what was drawn. Who knows it leaves them out of the matching: Scheliga, Mäder, Seeland: Privacy Preserving
Federated Learning with Convolutional Variational Bottlenecks, arXiv:2309.04515.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leakgauge.core import Claim, Effect, Misleading, Seeds, Tensors, Update
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.defenses.base import Undefended, zeroed
from leakgauge.defenses.last_linear import before_last_linear, last_linear
from leakgauge.federated.layers.bottleneck import VariationalBottleneck

MARK = "precode"
"""The bottleneck's name within what stands where the last layer was."""


@dataclass(frozen=True, kw_only=True)
class Precode(Undefended):
    """A bottleneck of `latent` values, whose KL term weighs `beta` in whatever loss is trained.

    256 and 1e-3 are what implementations of it use; in the paper's text we could not check them. The last
    linear layer is told by the order in which the model registers its layers.
    """

    strength: ClassVar[str] = "latent"
    claim: ClassVar[Claim] = Claim(
        "the gradients of the bottleneck and of the last layer, behind what it draws",
        "whoever sees the update",
        "matches the layers before the bottleneck alone, the signal that comes back to them a variable "
        "(attack signal_matching)",
    )
    latent: Count = 256
    beta: NonNegative = 1e-3

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Misleading(believed=self.believed),)

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """A copy with the bottleneck. Raises ModelError where it does not end with a linear layer behind others."""
        _, last = last_linear(model)
        with seeds.isolated("precode"):
            bottleneck = VariationalBottleneck(last.in_features, self.latent, self.beta)
        return before_last_linear(model, MARK, bottleneck.to(last.weight).train(last.training))

    def believed(self, observed: Update) -> Update:
        return Update(zeroed(observed.tensors, behind(observed.tensors)), observed.kind)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        hidden = behind(observed.tensors)
        return lambda simulated: zeroed(simulated, hidden)


def behind(names: Iterable[str]) -> frozenset[str]:
    """The parameters of the bottleneck and of the layer that follows it; none where there is no bottleneck."""
    split = {name: name.split(".") for name in names}
    stems = {tuple(parts[: parts.index(MARK)]) for parts in split.values() if MARK in parts}
    return frozenset(
        name
        for name, parts in split.items()
        if any(tuple(parts[: len(stem)]) == stem for stem in stems)
    )
