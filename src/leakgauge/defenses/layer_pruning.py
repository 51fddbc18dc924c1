"""Pruning of whole layers of the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch

from leakgauge.core import Claim, Seeds, Tensors, Update, UpdateError
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended, zero_named


@dataclass(frozen=True, kw_only=True)
class LayerPruning(Undefended):
    r"""Set the update of whole layers to zero.

    It acts on the finished update, before it leaves the client. A layer is all parameters of one
    module. The client withholds the layers that `named` matches. Of the other layers it withholds
    those with the longest gradients.

    .. math::

        \tilde g_l = 0 \;\text{ if } l \in \mathrm{named} \cup \mathrm{longest}, \qquad
        \tilde g_l = g_l \;\text{ otherwise}

    Here :math:`g_l` is the update of layer :math:`l`.

    An adaptive adversary leaves the withheld layers out of the matching. The update shows which
    layers they are.

    Args:
        fraction: Fraction of the layers outside `named` that the client withholds, in [0, 1), rounded
            down to whole layers. The default is ours.
        named: Name of a layer, or a pattern with * for several ("encoder.*"). The default names
            none.

    Raises:
        UpdateError: No layer has that name.

    References:
        Ours. Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 5. arXiv:1906.08935.
        There single entries are pruned.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"a.weight": torch.ones(2), "b.weight": torch.full((2,), 3.0)})
        >>> pruned = lg.defenses.LayerPruning(fraction=0.5).on_update(update, seeds=lg.Seeds(0))
        >>> [name for name, tensor in pruned.tensors.items() if bool(tensor.any())]
        ['a.weight']
    """

    strength: ClassVar[str] = "fraction"
    claim: ClassVar[Claim] = Claim(
        "everything that the gradient of the withheld layers shows",
        "anyone who sees the update",
        "leaves the withheld layers out of the matching. The update shows which they are",
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
        return Update(zero_named(update.tensors, gone), update.kind)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Return a function that zeroes the layers that are zero in the observed update."""
        seen = observed.tensors
        silent = {
            name
            for names in layers_of(seen).values()
            if not any(bool(seen[n].any()) for n in names)
            for name in names
        }
        return lambda simulated: zero_named(simulated, silent)

    def _named(self, layers: list[str]) -> set[str]:
        """Return the layers that `named` matches."""
        if self.named is None:
            return set()
        found = {layer for layer in layers if fnmatchcase(layer, self.named)}
        if not found:
            raise UpdateError(
                "defense LayerPruning",
                expected=f"a layer among {', '.join(layers)}",
                found=f"named = {self.named!r}",
                remedy="correct named, or match several layers with *",
            )
        return found


def layers_of(tensors: Tensors) -> dict[str, list[str]]:
    """Return the names of each layer's tensors. They share all but the last part of their names."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers
