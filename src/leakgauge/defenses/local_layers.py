"""Layers that never leave the client."""

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
    deep_copy,
    trainable,
)
from leakgauge.core.ranges import Whole
from leakgauge.defenses.base import Undefended, zero_named


@dataclass(frozen=True, kw_only=True)
class LocalLayers(Undefended):
    r"""Keep some layers on the client (personalization layers).

    It acts on the model that the server holds and on the finished update. The first `first` layers,
    the last `last` layers and the named layers stay local. The server has neither their weights nor
    their gradients.

    .. math::

        \tilde g_l = 0 \;\text{ if layer } l \text{ is local}, \qquad \tilde g_l = g_l \;\text{ otherwise}

    Here :math:`g_l` is the update of layer :math:`l`. A layer is a module with parameters of its
    own. Layers count in the order in which the model registers them. If `first` and `last` are 0 and
    `names` is empty, nothing is local.

    An adaptive adversary compares only the shared layers. It simulates them with new random weights
    in the local layers. The attack `SignalMatching` uses only the layers before the first local
    one. The signal that flows back to them is unknown, so the attack searches for it too.

    Args:
        last: Number of local layers at the end, at least 0. The default is ours.
        first: Number of local layers at the start, at least 0. The default is ours.
        names: Names of local layers. The name of a module stands for all layers within it.

    Raises:
        ModelError: The model lacks a named layer, or all of its layers are local.

    References:
        Last layers: Arivazhagan, Aggarwal, Singh, Choudhary. Federated Learning with
        Personalization Layers (FedPer). 2019. arXiv:1912.00818.

        First layers: Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency. Think
        Locally, Act Globally: Federated Learning with Local and Global Representations (LG-FedAvg).
        2020. arXiv:2001.01523.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(defense=lg.defenses.LocalLayers(last=1))
        >>> [bool(tensor.any()) for tensor in observation.update.tensors.values()]
        [True, True, False, False]
    """

    strength: ClassVar[str] = "last"
    claim: ClassVar[Claim] = Claim(
        "weights and gradients of the local layers",
        "anyone who sees the update, the server included",
        "compares only the shared layers, simulated with new random weights in the local ones. Attack "
        "signal_matching also searches for the signal that flows back from the local layers",
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
        """Return the model unchanged.

        Raises:
            ModelError: The model lacks a named layer, or all of its layers are local.
        """
        names = list(trainable(model))
        layers = layers_of(names)
        unknown = [name for name in self.names if not any(_within(layer, name) for layer in layers)]
        if unknown or self.local(names) == frozenset(names):
            raise ModelError(
                f"model {type(model).__name__}",
                expected=f"{self!r} to keep some of its {len(layers)} layers local, and to share others",
                found=f"no layer {unknown[0]!r}" if unknown else "no shared layer",
                remedy=f"choose among {', '.join(layers[:8])}{', ...' if len(layers) > 8 else ''}",
            )
        return model

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return Update(zero_named(update.tensors, self.local(update.tensors)), update.kind)

    def believed(self, observed: Update) -> Update:
        """Return the update with zeros in the local layers. A later defense may have put something there."""
        return Update(zero_named(observed.tensors, self.local(observed.tensors)), observed.kind)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        local = self.local(observed.tensors)
        return lambda simulated: zero_named(simulated, local)

    def shown(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return a copy in which the weights and running statistics of local layers are drawn anew."""
        after = deep_copy(model)
        names = list(trainable(after))
        local = self.local(names)
        with seeds.isolated("local layers"):
            for layer in layers_of(name for name in names if name in local):
                redraw(after.get_submodule(layer))
        return after

    def local(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names, among these parameters, that stay local."""
        held = list(names)
        layers = layers_of(held)
        kept = {*layers[: self.first], *layers[max(0, len(layers) - self.last) :]}
        kept |= {layer for layer in layers if any(_within(layer, name) for name in self.names)}
        return frozenset(name for name in held if _layer(name) in kept)


def layers_of(names: Iterable[str]) -> list[str]:
    """Return the modules that hold these parameters, each listed once, in their order."""
    return list(dict.fromkeys(map(_layer, names)))


def redraw(module: nn.Module) -> None:
    """Draw a layer's own tensors anew, from torch's global generator on the CPU.

    A layer with a method `reset_parameters` uses it. The parameters of other layers are drawn as
    torch draws a linear layer.
    """
    drawn = deep_copy(module).cpu()
    reset = getattr(drawn, "reset_parameters", None)
    if callable(reset):
        reset()
    else:
        for parameter in drawn.parameters(recurse=False):
            inputs = (parameter[0] if parameter.ndim > 1 else parameter).numel()
            nn.init.uniform_(parameter, -(max(1, inputs) ** -0.5), max(1, inputs) ** -0.5)
    module.load_state_dict(drawn.state_dict())


def _layer(name: str) -> str:
    """Return the name of the module that holds a parameter."""
    return name.rpartition(".")[0]


def _within(layer: str, name: str) -> bool:
    """Return whether a layer is the module `name`, or lies within it."""
    return layer == name or layer.startswith(f"{name}.")
