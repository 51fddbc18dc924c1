"""The rank of each layer's signal, measured on noise. Pools and normalizations can lower it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from leakgauge.analytic.convolutions.network import Network
from leakgauge.core import Domain, Seeds, unit_shape
from leakgauge.federated.isolation.probing import doubled, single
from leakgauge.federated.isolation.untouched import untouched
from leakgauge.inspection.layers import Layer

PROBED = 3
"""Number of random examples. BatchNorm in train mode takes one rank from all three."""
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
    twin = doubled(model)
    seeds = Seeds(0).child("inspection")
    draw = seeds.generator("examples")
    inputs = domain.from_unit(_uneven(unit_shape(domain), draw))

    def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
        return single(functional_call(twin, state, (x,)))

    with untouched(twin), seeds.isolated("probe"):
        graph = make_fx(forward, tracing_mode="fake")(network.state, inputs).graph
        graph.eliminate_dead_code()
        order = dict(zip(network.graph.nodes, graph.nodes, strict=True))
        needed = [order[node] for node in wanted]
        places = [node for node in graph.nodes if node.op == "placeholder"]
        state = {
            name: t.clone().requires_grad_(t.is_floating_point() and name not in buffers_of(twin))
            for name, t in network.state.items()
        }
        values = dict(zip(places, (*state.values(), inputs), strict=True))
        end = graph.output_node().all_input_nodes[0]
        kept = _run(graph, values, {*needed, end})
        output = kept[end]
        random = torch.randn(output.shape, generator=draw, dtype=torch.float64)
        random -= random.mean(-1, keepdim=True)
        value = (output * random.to(output)).sum()
        gradients = torch.autograd.grad(
            value, [kept[node] for node in needed], allow_unused=True, materialize_grads=True
        )
    return list(gradients)


def buffers_of(model: nn.Module) -> set[str]:
    """Return the names of a model's buffers."""
    return {name for name, _ in model.named_buffers()}


def _uneven(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Return random examples in [0, 1], smooth noise and white noise of different contrasts.

    White noise alone leaves channels without a signal that react to smooth regions.
    """
    white = torch.rand((PROBED, *shape), generator=draw, dtype=torch.float64)
    if not 2 <= len(shape) <= 4:
        return white
    size = (PROBED, shape[0], *(4 for _ in shape[1:]))
    coarse = torch.rand(size, generator=draw, dtype=torch.float64)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape) - 1]
    smooth = functional.interpolate(coarse, size=shape[1:], mode=mode)
    grain = torch.tensor((0.05, 0.2, 0.5), dtype=torch.float64)
    grain = grain.reshape(-1, *(1 for _ in shape))
    mixed: Tensor = (1 - grain) * smooth + grain * white
    return mixed


def _run(
    graph: fx.Graph, values: dict[fx.Node, Any], wanted: set[fx.Node]
) -> dict[fx.Node, Tensor]:
    """Return the values of nodes. Values that no later operation needs are dropped."""
    kept: dict[fx.Node, Tensor] = {}
    left = {node: len(node.users) for node in graph.nodes}
    for node in graph.nodes:
        if node.op == "call_function":
            arguments = fx.node.map_arg(node.args, lambda n: values[n])
            keywords = fx.node.map_arg(node.kwargs, lambda n: values[n])
            values[node] = cast(Any, node.target)(*arguments, **keywords)
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    values.pop(used, None)
        if node in wanted:
            kept[node] = values[node]
    return kept
