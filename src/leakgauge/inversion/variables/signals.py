r"""Further variables of each example: the gradient of its loss at the input of a layer (its signal).

Use it if a known defense hides the gradients of all layers from some layer on. With :math:`r` the
input of the first hidden layer, the gradient of an earlier parameter :math:`\theta_l` is

.. math::

    g_l = \frac{1}{B} \sum_{b=1}^{B} \left( \frac{\partial r(x_b)}{\partial \theta_l} \right)^\top u_b,
    \qquad u_b = \frac{\partial L_b}{\partial r}

The signal :math:`u_b` is searched beside the input :math:`x_b`. The adversary's copy of the model
ends at :math:`r`, and its loss is the mean of :math:`\langle r, u \rangle`. For the layers before
:math:`r`, this loss has the same gradients as any network behind :math:`r`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import (
    Inapplicable,
    Observation,
    Tensors,
    Update,
    deep_copy,
    trainable,
    unit_shape,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.layers.dropout import make_probes
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.inversion.simulation.simulator import drop_misleading, simulator
from leakgauge.inversion.variables.wide import Beside, Layout, WideDomain


@dataclass(frozen=True)
class Signals(Layout):
    """The layout of examples with their signals.

    Args:
        inputs: Shape of an input.
        features: Number of values of a signal, one for each value of the layer's input.
        scale: Unit of the signal.
    """

    features: int
    scale: float = 1.0

    @property
    def extra(self) -> int:
        return self.features


@dataclass(frozen=True, kw_only=True)
class WithSignal(Beside):
    """The variables of `base`, then the signal, which starts at zero."""

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return variables (B, n + m), drawn from `generator`."""
        assert isinstance(observation.domain, WideDomain), "sever() makes the observation"
        narrow = replace(observation, domain=observation.domain.base)
        inputs = self.base.start(narrow, generator)
        return self.layout.joined(inputs, inputs.new_zeros(len(inputs), self.layout.extra))


def concealed_parameters(observation: Observation) -> frozenset[str]:
    """Return the names of parameters whose gradients a known defense makes useless."""
    ones = {name: torch.ones_like(t) for name, t in observation.update.tensors.items()}
    whole = replace(observation, update=Update(ones, observation.update.kind))
    return frozenset(
        n for n, t in drop_misleading(whole).update.tensors.items() if not bool(t.any())
    )


def find_split(observation: Observation) -> tuple[str, int] | Inapplicable:
    """Return the first hidden layer that runs, or the reason why there is none.

    The result is the layer's name and the number of values that it reads of one example.

    Every layer with parameters that runs before it must have a visible gradient. Every later one
    must be hidden.
    """
    gone = concealed_parameters(observation)
    if not gone:
        return Inapplicable("the known defense hides no layer's gradient")
    if len(gone) == len(observation.update.tensors):
        return Inapplicable("the known defense hides every layer's gradient")
    order = _run_order(observation)
    concealed = [_hides(name, gone) for name, _ in order]
    first = concealed.index(True) if True in concealed else 0
    if not first or not all(concealed[first:]):
        return Inapplicable("a layer with a visible gradient runs after a hidden one")
    name, read = order[first]
    if read.shape[:1] != (1,):
        return Inapplicable(f"layer {name!r} does not read one tensor for each example")
    return name, read.numel()


def _hides(layer: str, gone: frozenset[str]) -> bool:
    """Return whether the layer has a parameter among those that are hidden."""
    return any(name.rpartition(".")[0] == layer for name in gone)


def _run_order(observation: Observation) -> list[tuple[str, Tensor]]:
    """Return the layers with own parameters, in the order in which they run on one example, and their inputs."""
    model = deep_copy(observation.model)
    found: list[tuple[str, Tensor]] = []

    def record(name: str) -> Callable[..., None]:
        return lambda _, given: found.append((name, given[0]))

    owners = {name.rpartition(".")[0] for name in trainable(model)}
    for name, module in model.named_modules():
        if name in owners:
            module.register_forward_pre_hook(record(name))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), probing():
        stateless(model, trainable(model), make_probes(observation, 1))
    return found


class _Reached(Exception):
    """The forward pass has reached the first hidden layer."""


@dataclass(frozen=True)
class _SeveredForward:
    """A forward pass of wide examples, which returns `<r, u>` of each, (B, 1)."""

    forward: Any
    layer: nn.Module
    signals: Signals

    def __call__(self, wide: Tensor) -> Tensor:
        read: list[Tensor] = []

        def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            read.append(given[0])
            raise _Reached

        handle = self.layer.register_forward_pre_hook(stop)
        try:
            self.forward(self.signals.input_of(wide).clone())
        except _Reached:
            pass
        finally:
            handle.remove()
        signal = self.signals.scale * self.signals.rest_of(wide)
        return (read[0].flatten(1) * signal).sum(1, keepdim=True)


def sever(observation: Observation, layer: str, signals: Signals) -> Observation:
    """Return the observation with the adversary's copy of the model, which ends before `layer`."""
    model = deep_copy(observation.model)
    model.forward = _SeveredForward(model.forward, model.get_submodule(layer), signals)
    return replace(
        observation,
        model=model,
        loss=_mean,
        domain=WideDomain(observation.domain, signals),
    )


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of the outputs: the loss of the severed model."""
    return outputs.mean()


def scale_signals(
    observation: Observation, layer: str, features: int, generator: torch.Generator
) -> Signals:
    """Return signals in a unit that suits the update.

    In this unit, random signals give an update of about the observed length.

    Args:
        observation: The observation.
        layer: The first hidden layer.
        features: Number of values that the layer reads of an example.
        generator: Source of the random signals.
    """
    signals = Signals(unit_shape(observation.domain), features)
    severed = sever(observation, layer, signals)
    count = observation.batch_size
    unit = torch.full((count, math.prod(unit_shape(observation.domain))), 0.5)
    drawn = torch.randn((count, features), generator=generator)
    like = observation.update.like
    wide = torch.cat([unit, drawn], dim=1).to(like)
    targets = torch.zeros(count, dtype=torch.long, device=like.device)
    made = simulator(severed, create_graph=False)(wide, targets)
    length = _length(drop_misleading(observation).update.tensors) / max(_length(made), 1e-30)
    return replace(signals, scale=length)


def _length(tensors: Tensors) -> float:
    """Return the Euclidean norm of all tensors."""
    return float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum().sqrt())
