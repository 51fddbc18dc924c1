"""The rank of each layer's signal, measured on noise. Pools and normalizations can lower it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.core import Domain, Seeds, unit_shape
from leakgauge.inspection.layers import Layer

PROBED = 3
"""Number of random examples. BatchNorm in train mode takes one rank from all three."""
GRAINS = (0.05, 0.2, 0.5)
"""Fractions of white noise in the random examples. The rest is smooth noise."""
SAMPLED = 2048
"""Most positions whose signals are compared."""
NOTHING = 1e-10
"""Relative size of a singular value that counts as zero, in float64."""


@dataclass(frozen=True)
class Signal:
    """What the signal of a layer spans, the gradient of the loss at its output.

    Args:
        rank: Its rank for one example.
        shared: Rank that a batch loses once, as behind BatchNorm in train mode.
        outputs: Number of outputs with a signal. The others are dead.
        varying: Number of outputs whose signal differs between the positions of an example.
    """

    rank: int
    shared: int
    outputs: int
    varying: int


def signals_of(
    model: nn.Module, domain: Domain, network: Network, layers: Sequence[Layer]
) -> dict[fx.Node, Signal]:
    """Return the signal of each layer by its node, measured on random examples.

    Args:
        model: The network.
        domain: What one example is.
        network: The traced network.
        layers: Layers to measure. Those without equations are left out.
    """
    wanted = [layer.node for layer in layers if layer.reader is not None]
    found = {}
    for node, signal in zip(wanted, _gradients(model, domain, network, wanted), strict=True):
        axis = 1 if "convolution" in str(node.target) else -1
        rows = signal.movedim(axis, -1).flatten(0, -2)
        found[node] = _measured(rows, len(rows) // PROBED)
    return found


def _measured(rows: Tensor, positions: int) -> Signal:
    """Return what signals (B P, O) span. The rows of the first example come first."""
    alive = int((rows.abs().amax(0) > 0).sum())
    one = _rank(rows[:positions])
    each = positions if one >= min(positions, alive, SAMPLED) else one
    lost = PROBED * each - _rank(rows) if PROBED * each <= min(alive, SAMPLED) else 0
    whole = rows.reshape(PROBED, positions, -1)
    spread = whole.amax(1) - whole.amin(1)
    varying = int((spread > NOTHING * whole.abs().amax(1)).any(0).sum())
    return Signal(each, int(lost == 1), alive, varying)


def _rank(rows: Tensor) -> int:
    """Return the rank of a matrix, of at most SAMPLED rows."""
    sizes = torch.linalg.svdvals(rows[:SAMPLED])
    return int((sizes > NOTHING * sizes[0]).sum())


def _gradients(
    model: nn.Module, domain: Domain, network: Network, wanted: Sequence[fx.Node]
) -> list[Tensor]:
    """Return the gradients of a random function of the outputs, at the outputs of layers, on random examples."""
    seeds = Seeds(0).child("inspection")
    draw = seeds.generator("examples")
    inputs = domain.from_unit(uneven(unit_shape(domain), draw))
    exact = trace(model, domain, batch=PROBED)
    assert isinstance(exact, Network), "expected a model that was traced before"
    order = dict(zip(network.graph.nodes, exact.graph.nodes, strict=True))
    needed = [order[node] for node in wanted]
    state = with_gradients(model, network)
    with seeds.isolated("probe"):
        kept = exact.evaluate([*needed, exact.end], {exact.entry: inputs}, state)
    output = kept[exact.end]
    random = torch.randn(output.shape, generator=draw, dtype=torch.float64)
    random -= random.mean(-1, keepdim=True)
    value = (output * random.to(output)).sum()
    gradients = torch.autograd.grad(
        value, [kept[node] for node in needed], allow_unused=True, materialize_grads=True
    )
    return list(gradients)


def with_gradients(model: nn.Module, network: Network) -> dict[str, Tensor]:
    """Return the state of a network by name. Its parameters require gradients."""
    buffers = {name for name, _ in model.named_buffers()}
    return {
        name: t.clone().requires_grad_(t.is_floating_point() and name not in buffers)
        for name, t in network.state.items()
    }


def uneven(shape: tuple[int, ...], draw: torch.Generator, count: int = PROBED) -> Tensor:
    """Return random examples in [0, 1], smooth noise and white noise of different contrasts.

    White noise alone leaves channels without a signal that react to smooth regions.
    """
    white = torch.rand((count, *shape), generator=draw, dtype=torch.float64)
    if not 2 <= len(shape) <= 4:
        return white
    size = (count, shape[0], *(4 for _ in shape[1:]))
    coarse = torch.rand(size, generator=draw, dtype=torch.float64)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape) - 1]
    smooth = functional.interpolate(coarse, size=shape[1:], mode=mode)
    grain = torch.tensor(GRAINS, dtype=torch.float64)[torch.arange(count) % len(GRAINS)]
    grain = grain.reshape(-1, *(1 for _ in shape))
    mixed: Tensor = (1 - grain) * smooth + grain * white
    return mixed
