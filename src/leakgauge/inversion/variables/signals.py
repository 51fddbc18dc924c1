"""The signal that comes back to a layer as further variables of each example, where nobody knows what is behind it.

    g_l = 1/B sum_b (dr(x_b) / dtheta_l)' u_b,    u_b = dL_b / dr,    r what the first hidden layer reads

The adversary's own copy of the model ends at r, and its loss is the mean of <r, u>: of layers before r, its gradient is
that of any network behind.
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
    copied,
    trainable,
    unit_shape,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.layers.dropout import probes
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.inversion.simulation.simulator import drop_misleading, simulator
from leakgauge.inversion.variables.wide import Beside, Layout, WideDomain


@dataclass(frozen=True)
class Signals(Layout):
    """A signal beside an input, one value for each feature, in units of `scale`."""

    features: int
    scale: float = 1.0

    @property
    def extra(self) -> int:
        return self.features


@dataclass(frozen=True, kw_only=True)
class WithSignal(Beside):
    """The variables of `base`, then the signal, which starts at zero."""

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Variables (B, n + m), drawn from `generator`."""
        assert isinstance(observation.domain, WideDomain), "sever() makes the observation"
        narrow = replace(observation, domain=observation.domain.base)
        inputs = self.base.start(narrow, generator)
        return self.layout.joined(inputs, inputs.new_zeros(len(inputs), self.layout.extra))


def concealed_parameters(observation: Observation) -> frozenset[str]:
    """The parameters of whose gradient a known defense leaves nothing that can be believed."""
    ones = {name: torch.ones_like(t) for name, t in observation.update.tensors.items()}
    whole = replace(observation, update=Update(ones, observation.update.kind))
    return frozenset(
        n for n, t in drop_misleading(whole).update.tensors.items() if not bool(t.any())
    )


def find_split(observation: Observation) -> tuple[str, int] | Inapplicable:
    """Return the first hidden layer that runs and how many values it reads of an example, or why there is none.

    Every layer with parameters that runs before it must be seen, every one from it on be hidden.
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
        return Inapplicable("a layer that is seen runs behind one that is hidden")
    name, read = order[first]
    if read.shape[:1] != (1,):
        return Inapplicable(f"layer {name!r} reads no vector of each example")
    return name, read.numel()


def _hides(layer: str, gone: frozenset[str]) -> bool:
    return any(name.rpartition(".")[0] == layer for name in gone)


def _run_order(observation: Observation) -> list[tuple[str, Tensor]]:
    """The layers with parameters of their own in the order in which they run on one example, with what each reads."""
    model = copied(observation.model)
    found: list[tuple[str, Tensor]] = []

    def told(name: str) -> Callable[..., None]:
        return lambda _, given: found.append((name, given[0]))

    owners = {name.rpartition(".")[0] for name in trainable(model)}
    for name, module in model.named_modules():
        if name in owners:
            module.register_forward_pre_hook(told(name))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), probing():
        stateless(model, trainable(model), probes(observation, 1))
    return found


class _Reached(Exception):
    """The forward pass has come to the layer from which on nothing is known."""


@dataclass(frozen=True)
class _SeveredForward:
    """A forward pass of wide examples: <r, u> of each, (B, 1)."""

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
    """The observation with the adversary's own copy of the model, which ends before `layer`."""
    model = copied(observation.model)
    model.forward = _SeveredForward(model.forward, model.get_submodule(layer), signals)
    return replace(
        observation,
        model=model,
        loss=_mean,
        domain=WideDomain(observation.domain, signals),
    )


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def scale_signals(
    observation: Observation, layer: str, features: int, generator: torch.Generator
) -> Signals:
    """Signals in the unit in which drawn ones make an update about as long as the one observed."""
    signals = Signals(unit_shape(observation.domain), features)
    seen = sever(observation, layer, signals)
    count = observation.batch_size
    unit = torch.full((count, math.prod(unit_shape(observation.domain))), 0.5)
    drawn = torch.randn((count, features), generator=generator)
    like = observation.update.like
    wide = torch.cat([unit, drawn], dim=1).to(like)
    targets = torch.zeros(count, dtype=torch.long, device=like.device)
    made = simulator(seen, create_graph=False)(wide, targets)
    length = _length(drop_misleading(observation).update.tensors) / max(_length(made), 1e-30)
    return replace(signals, scale=length)


def _length(tensors: Tensors) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum().sqrt())
