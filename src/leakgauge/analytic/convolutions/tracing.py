"""Tracing of any module to the graph of its elementary operations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.network import Convolution, Network, arguments_of
from leakgauge.core import Domain, Inapplicable, ProbeError, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, single
from leakgauge.federated.isolation.untouched import untouched

TRACED = 7
"""Batch size of a trace that serves batches of any size."""


def trace(model: nn.Module, domain: Domain, *, batch: int = TRACED) -> Network | Inapplicable:
    """Return the graph of a model for examples of a domain, or the reason why it cannot be traced.

    Args:
        model: The model, in any mode.
        domain: The domain of the examples.
        batch: Batch size of the trace. Operations that merge the batch with other axes need a trace
            of the batch size at which the network is evaluated.
    """
    twin = doubled(model)
    state = {
        name: t.detach().clone() for name, t in (*twin.named_parameters(), *twin.named_buffers())
    }
    shape = unit_shape(domain)
    like = domain.from_unit(torch.full((batch, *shape), 0.5, dtype=torch.float64))

    def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
        return single(functional_call(twin, state, (x,)))

    try:
        with probing(), untouched(twin):
            traced = make_fx(functionalize(forward), tracing_mode="fake")(state, like)
    except ProbeError as error:
        return Inapplicable(f"the model cannot be traced: {' '.join(str(error).split())[:200]}")
    graph = traced.graph
    graph.eliminate_dead_code()
    places = [node for node in graph.nodes if node.op == "placeholder"]
    names = dict(zip(places, state, strict=False))
    end = graph.output_node().all_input_nodes[0]
    layers = _convolutions(graph, names, state, dict(twin.named_modules()))
    return Network(graph, state, names, places[-1], end, layers, batch)


def _convolutions(
    graph: fx.Graph,
    names: Mapping[fx.Node, str],
    state: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> tuple[Convolution, ...]:
    """Return the convolutions whose weights are parameters, and whose padding is with zeros."""
    found = []
    for node in graph.nodes:
        if str(node.target) != "aten.convolution.default":
            continue
        source, weight, bias, stride, padding, dilation, transposed, _, groups = arguments_of(node)
        if weight not in names or transposed:
            continue
        name = names[weight]
        if getattr(modules.get(name.rpartition(".")[0]), "padding_mode", "zeros") != "zeros":
            continue
        value = state[name]
        shape = source.meta["val"].shape
        geometry = geometry_of(
            shape[2:], kernel=value.shape[2:], stride=stride, padding=padding, dilation=dilation
        )
        shift = None
        if bias in names:
            shift = state[names[bias]].reshape(-1, *[1] * (value.ndim - 2))
        found.append(Convolution(name, node, source, value, geometry, groups, shape[1], shift))
    return tuple(found)
