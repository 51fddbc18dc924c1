"""Layers that never leave the client. Arivazhagan, Aggarwal, Singh, Choudhary: Federated Learning with Personalization
Layers (FedPer), arXiv:1912.00818: the last ones; Liang et al.: Think Locally, Act Globally (LG-FedAvg),
arXiv:2001.01523: the first ones.

    shared:  g_l where layer l is shared, 0 where it is local; the server holds no weights of local layers

Who knows it compares the shared layers alone, simulated with local layers drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leakgauge.core import (
    Claim,
    Effect,
    HiddenModel,
    KeptLocal,
    Misleading,
    ModelError,
    Seeds,
    Tensors,
    Update,
    copied,
    trainable,
)
from leakgauge.core.ranges import Whole
from leakgauge.defenses.base import Undefended, zeroed


@dataclass(frozen=True, kw_only=True)
class LocalLayers(Undefended):
    """The first `first`, the last `last` and the named layers stay local.

    A layer is a module with parameters of its own, counted in the order in which the model registers them; a name
    stands for all layers within that module. Where all three are empty, nothing is local.
    """

    strength: ClassVar[str] = "last"
    claim: ClassVar[Claim] = Claim(
        "weights and gradients of the local layers",
        "whoever sees the update, the server among them",
        "compares the shared layers, simulated with local layers drawn anew; before the first local one, with the "
        "signal that comes back a variable (attack signal_matching)",
    )
    last: Whole = 1
    first: Whole = 0
    names: tuple[str, ...] = ()

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (
            KeptLocal(names=self.local),
            HiddenModel(shown=self.shown),
            Misleading(believed=self.believed),
        )

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """The model as it is. Raises ModelError where it lacks a named layer, or has no other than local ones."""
        names = list(trainable(model))
        layers = layers_of(names)
        unknown = [name for name in self.names if not any(_within(layer, name) for layer in layers)]
        if unknown or self.local(names) == frozenset(names):
            raise ModelError(
                f"model {type(model).__name__}",
                expected=f"{self!r} to name some of its {len(layers)} layers, and to leave others",
                found=f"no layer {unknown[0]!r}" if unknown else "none that is shared",
                remedy=f"choose among {', '.join(layers[:8])}{', ...' if len(layers) > 8 else ''}",
            )
        return model

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return Update(zeroed(update.tensors, self.local(update.tensors)), update.kind)

    def believed(self, observed: Update) -> Update:
        """Without the local layers, whatever a later defense put there."""
        return Update(zeroed(observed.tensors, self.local(observed.tensors)), observed.kind)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        local = self.local(observed.tensors)
        return lambda simulated: zeroed(simulated, local)

    def shown(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """A copy whose local layers are drawn anew, their running statistics with them."""
        after = copied(model)
        names = list(trainable(after))
        local = self.local(names)
        with seeds.isolated("local layers"):
            for layer in layers_of(name for name in names if name in local):
                redraw(after.get_submodule(layer))
        return after

    def local(self, names: Iterable[str]) -> frozenset[str]:
        """Which of the parameters of these names stay local."""
        held = list(names)
        layers = layers_of(held)
        kept = {*layers[: self.first], *layers[max(0, len(layers) - self.last) :]}
        kept |= {layer for layer in layers if any(_within(layer, name) for name in self.names)}
        return frozenset(name for name in held if _layer(name) in kept)


def layers_of(names: Iterable[str]) -> list[str]:
    """The modules that hold these parameters, each once, in their order."""
    return list(dict.fromkeys(map(_layer, names)))


def redraw(module: nn.Module) -> None:
    """Draw a layer's own tensors anew: by its own rule where it has one, else as torch draws a linear layer's.

    From torch's global generator on the CPU.
    """
    drawn = copied(module).cpu()
    reset = getattr(drawn, "reset_parameters", None)
    if callable(reset):
        reset()
    else:
        for parameter in drawn.parameters(recurse=False):
            inputs = (parameter[0] if parameter.ndim > 1 else parameter).numel()
            nn.init.uniform_(parameter, -(max(1, inputs) ** -0.5), max(1, inputs) ** -0.5)
    module.load_state_dict(drawn.state_dict())


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _within(layer: str, name: str) -> bool:
    return layer == name or layer.startswith(f"{name}.")
