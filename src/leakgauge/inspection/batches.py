"""What the signals of a whole batch span, measured on noise under the softmax loss with equal labels.

Equal labels are the hardest case: the derivatives at the outputs then differ least between examples. If the
outputs are large, they do not differ at all, and all examples together have one direction of signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from leakgauge.analytic.convolutions.counting import Reader, largest
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import batch_norm_of, root_of, trains
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.core import Domain, Seeds, unit_shape
from leakgauge.inspection.layers import Layer, Limits
from leakgauge.inspection.probe import with_gradients

EXAMPLES = 12
"""Number of random examples."""
LARGEST = 2**14
"""Most numbers of one example. Larger ones would take minutes."""
RANKED = 640
"""Most rows of a matrix whose rank is measured."""
OWN = 0.35
"""Amplitude of the waves of one channel alone, relative to those that all channels share."""
FULL = 1e-13
"""Relative size of a singular value that counts as zero, in float64."""


def limits_of(
    model: nn.Module, domain: Domain, network: Network, layers: Sequence[Layer]
) -> list[Layer]:
    """Return layers with the limits of their signals and inputs, or unchanged if they cannot be measured.

    They cannot if the network mixes examples, if its output is no vector of logits, or if an example is large.

    Args:
        model: The network.
        domain: What one example is.
        network: The traced network.
        layers: Layers to measure. Those without equations stay unchanged.
    """
    shape = unit_shape(domain)
    mixed = any(
        norm is not None and trains(norm) for norm in map(batch_norm_of, network.graph.nodes)
    )
    logits = network.end.meta["val"].dim() == 2 and network.end.meta["val"].shape[1] > 1
    exact = trace(model, domain, batch=EXAMPLES) if logits and not mixed else None
    if not isinstance(exact, Network) or torch.Size(shape).numel() > LARGEST:
        return list(layers)
    order = dict(zip(network.graph.nodes, exact.graph.nodes, strict=True))
    wanted = [layer for layer in layers if layer.reader is not None]
    signals, values = _softmax_signals(model, exact, domain, [order[x.node] for x in wanted])
    last = root_of(network.end)
    needed = [x for x in wanted if x.node is last or x.columns() is not None]
    inputs = values([order[x.source] for x in needed])
    found = []
    kept = dict(zip((x.node for x in wanted), signals, strict=True))
    for layer in layers:
        if layer.reader is None:
            found.append(layer)
            continue
        signal, given = kept[layer.node], inputs.get(order[layer.source])
        features = given if layer.kind == "linear" and layer.node is last else None
        limits = _limits(layer.reader, _rows(layer, signal), features)
        limited = _limited(layer, limits)
        if given is not None and layer.columns() is not None:
            limited = replace(limited, inputs=_span_of(_rows(layer, given), layer.reader))
        found.append(limited)
    return found


def _rows(layer: Layer, values: Tensor) -> Tensor:
    """Return values at a layer's input or output as rows (B, positions, channels)."""
    axis = 1 if layer.kind == "convolution" else -1
    return values.movedim(axis, -1).reshape(EXAMPLES, -1, values.shape[axis])


def _limited(layer: Layer, limits: Limits) -> Layer:
    """Return a layer whose equations have the limits of a batch."""
    assert layer.reader is not None, "expected a layer with equations"
    spread = layer.kind == "convolution" and max(layer.reader.geometry.kernel) > 1
    alive = limits.alive if spread else ()
    return replace(layer, reader=replace(layer.reader, alive=alive, most=limits.most))


def _span_of(rows: Tensor, reader: Reader) -> Limits:
    """Return the limits of a convolution's inputs (B, N, C)."""
    alive, narrow = _alive(rows, reader.groups)
    return Limits(alive, _full(lambda b: narrow[:b].flatten(0, 1), reader.geometry.places))


def _softmax_signals(
    model: nn.Module, exact: Network, domain: Domain, wanted: Sequence[fx.Node]
) -> tuple[Sequence[Tensor], Callable[[Sequence[fx.Node]], dict[fx.Node, Tensor]]]:
    """Return the gradients of the softmax loss with equal labels at nodes, and a map to the values of nodes."""
    seeds = Seeds(0).child("inspection")
    inputs = domain.from_unit(natural(unit_shape(domain), seeds.generator("batches")))
    state = with_gradients(model, exact)
    with seeds.isolated("batches"):
        kept = exact.evaluate([*wanted, exact.end], {exact.entry: inputs}, state)
    labels = torch.zeros(EXAMPLES, dtype=torch.long)
    loss = functional.cross_entropy(kept[exact.end], labels, reduction="sum")
    signals = torch.autograd.grad(
        loss, [kept[node] for node in wanted], allow_unused=True, materialize_grads=True
    )

    def values(nodes: Sequence[fx.Node]) -> dict[fx.Node, Tensor]:
        with seeds.isolated("batches"), torch.no_grad():
            found = exact.evaluate(list(nodes), {exact.entry: inputs}, state)
            return {node: found[node] for node in nodes}

    return signals, values


def _limits(reader: Reader | None, rows: Tensor, features: Tensor | None) -> Limits:
    """Return the limits of a layer with signals (B, P, O), and with features (B, C) if it is the last one."""
    assert reader is not None, "expected a layer with equations"
    alive, narrow = _alive(rows, reader.groups)
    if features is not None and features.dim() == 2:
        return Limits(alive, _full(lambda b: rows[:b, 0].T @ features[:b], 1))
    if reader.positions == 1 or reader.shared:
        return Limits(alive, None)
    return Limits(alive, _full(lambda b: narrow[:b].flatten(0, 1), reader.signal))


def _alive(rows: Tensor, groups: int) -> tuple[tuple[int, ...], Tensor]:
    """Return the numbers of live channels of rows (B, P, O), and the group (B, P, O / groups) with the least."""
    split = rows.reshape(*rows.shape[:2], groups, -1)
    on = (split != 0).any(1)  # (B, groups, O / groups)
    ring = torch.cat([on, on])
    windows = [
        [ring[i : i + b].any(0).sum(1) for i in range(EXAMPLES)] for b in range(1, EXAMPLES + 1)
    ]
    live = torch.stack([torch.stack(each).double().mean(0) for each in windows])  # (B, groups)
    alive = tuple(int(least) * groups for least in live.amin(1).round())
    return alive, split[:, :, int(live[-1].argmin())]


def _full(matrix: Callable[[int], Tensor], each: int) -> int | None:
    """Return the largest batch whose matrix has rank `each` for every example, or None if no batch has less."""

    def holds(batch: int) -> bool:
        found = matrix(batch)
        if batch * each > min(*found.shape, RANKED):
            return False
        sizes = torch.linalg.svdvals(found)
        return int((sizes > FULL * sizes[0]).sum()) >= batch * each

    most = min(EXAMPLES, max(1, min(*matrix(EXAMPLES).shape, RANKED) // max(1, each)))
    if holds(most):
        return None
    return largest(lambda batch: batch < most and holds(batch))


def natural(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Return random examples in [0, 1] whose amplitudes fall with the frequency, as those of photographs do.

    Channels share most of their waves, as colors do. Contrast and brightness differ between examples.

    Args:
        shape: Shape of one example: the channels, then the sizes. One size alone has white noise.
        draw: Source of the draws.
    """
    white = torch.randn((EXAMPLES, *shape), generator=draw, dtype=torch.float64)
    levels = torch.rand((2, EXAMPLES), generator=draw, dtype=torch.float64)
    middle, contrast = ((0.3, 0.4), (0.1, 0.2))
    flat = [EXAMPLES, *(1 for _ in shape)]
    center = (middle[0] + middle[1] * levels[0]).reshape(flat)
    size = (contrast[0] + contrast[1] * levels[1]).reshape(flat)
    if len(shape) > 1:
        axes = tuple(range(2, len(shape) + 1))
        common = white.mean(1, keepdim=True) * math.sqrt(shape[0])
        waves = torch.fft.fftn(white * OWN + common, dim=axes)
        steps = [torch.fft.fftfreq(n, dtype=torch.float64) * n for n in shape[1:]]
        squares = torch.stack(torch.meshgrid(*steps, indexing="ij")).square().sum(0)
        white = torch.fft.ifftn(waves / squares.sqrt().clamp_min(1), dim=axes).real
    spread = white.flatten(1).std(1).reshape(flat)
    return (center + size * white / spread).clamp(0, 1)
