"""The gradient of whole layers is not sent. Ours: Zhu et al. 2019, section 5.1, prune by entries; this by layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch

from leakgauge.core import Claim, Seeds, Tensors, Update, UpdateError
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, zeroed


@dataclass(frozen=True, kw_only=True)
class LayerPruning(Undefended):
    """Withhold the layers that `named` names, and of the others the share `share` in [0, 1) whose gradient is longest.

    A layer is all parameters of one module. `named`: its name, or a pattern with * of several ("encoder.*").
    Raises UpdateError where no layer bears that name. What is withheld is zero in the update.
    """

    strength: ClassVar[str] = "fraction"
    claim: ClassVar[Claim] = Claim(
        "all that the withheld layers' gradient tells",
        "whoever sees the update",
        "leaves those layers out of the matching: which they are, the update shows",
    )
    fraction: Fraction = 0.5
    named: str | None = None

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        layers = layers_of(update.tensors)
        withheld = self._named(list(layers))
        others = {layer: names for layer, names in layers.items() if layer not in withheld}
        lengths = [
            float(torch.stack([update.tensors[n].double().norm() for n in names]).norm())
            for names in others.values()
        ]
        longest = sorted(range(len(others)), key=lambda i: -lengths[i])
        longest = longest[: int(self.fraction * len(others))]
        withheld |= {list(others)[i] for i in longest}
        gone = {name for layer in withheld for name in layers[layer]}
        return Update(zeroed(update.tensors, gone), update.kind)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Simulated updates without the layers that are zero in the observed one."""
        seen = observed.tensors
        silent = {
            name
            for names in layers_of(seen).values()
            if not any(bool(seen[n].any()) for n in names)
            for name in names
        }
        return lambda simulated: zeroed(simulated, silent)

    def _named(self, layers: list[str]) -> set[str]:
        if self.named is None:
            return set()
        found = {layer for layer in layers if fnmatchcase(layer, self.named)}
        if not found:
            raise UpdateError(
                "defense LayerPruning",
                expected=f"a layer among {', '.join(layers)}",
                found=f"named = {self.named!r}",
                remedy="correct the name, or match several with *",
            )
        return found


def layers_of(tensors: Tensors) -> dict[str, list[str]]:
    """The names of each layer's tensors: those that share all but the last part of their names."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers
