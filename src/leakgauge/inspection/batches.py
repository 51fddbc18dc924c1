"""What the signals of a whole batch span, measured on noise under the softmax loss with equal labels.

Equal labels are the hardest case: the derivatives at the outputs then differ least between examples. If the
outputs are large, they do not differ at all, and all examples together have one direction of signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from leakgauge.analytic.convolutions.counting import Reader, largest
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import batch_norm_of, root_of, trains
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.core import Domain, Seeds, unit_shape
from leakgauge.inspection.layers import Layer
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


@dataclass(frozen=True)
class Limits:
    """What a layer's signal spans in a batch.

    Args:
        alive: Mean numbers of outputs with a signal in batches of 1 to EXAMPLES. With groups of
            channels, the least number of a group, times the number of groups.
        most: Largest batch in which the signal has full rank. None if it has in every batch that was measured.
    """

    alive: tuple[int, ...]
    most: int | None


def limits_of(
    model: nn.Module, domain: Domain, network: Network, layers: Sequence[Layer]
) -> dict[fx.Node, Limits]:
    """Return the limits of each layer by its node, or none if they cannot be measured.

    They cannot if the network mixes examples, if its output is no vector of logits, or if an example is large.

    Args:
        model: The network.
        domain: What one example is.
        network: The traced network.
        layers: Layers to measure. Those without equations are left out.
    """
    shape = unit_shape(domain)
    mixed = any(
        norm is not None and trains(norm) for norm in map(batch_norm_of, network.graph.nodes)
    )
    logits = network.end.meta["val"].dim() == 2 and network.end.meta["val"].shape[1] > 1
    exact = trace(model, domain, batch=EXAMPLES) if logits and not mixed else None
    if not isinstance(exact, Network) or torch.Size(shape).numel() > LARGEST:
        return {}
    order = dict(zip(network.graph.nodes, exact.graph.nodes, strict=True))
    wanted = [layer for layer in layers if layer.reader is not None]
    signals, features = _softmax_signals(model, exact, domain, [order[x.node] for x in wanted])
    found = {}
    for layer, signal in zip(wanted, signals, strict=True):
        axis = 1 if layer.kind == "convolution" else -1
        rows = signal.movedim(axis, -1).reshape(EXAMPLES, -1, signal.shape[axis])
        last = layer.kind == "linear" and root_of(network.end) is layer.node
        found[layer.node] = _limits(
            layer.reader, rows, features(order[layer.source]) if last else None
        )
    return found


def _softmax_signals(
    model: nn.Module, exact: Network, domain: Domain, wanted: Sequence[fx.Node]
) -> tuple[Sequence[Tensor], Callable[[fx.Node], Tensor]]:
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

    def values(node: fx.Node) -> Tensor:
        with seeds.isolated("batches"), torch.no_grad():
            return exact.evaluate([node], {exact.entry: inputs}, state)[node]

    return signals, values


def _limits(reader: Reader | None, rows: Tensor, features: Tensor | None) -> Limits:
    """Return the limits of a layer with signals (B, P, O), and with features (B, C) if it is the last one."""
    assert reader is not None, "expected a layer with equations"
    groups = rows.reshape(*rows.shape[:2], reader.groups, -1)
    on = (groups != 0).any(1)  # (B, groups, O / groups)
    ring = torch.cat([on, on])
    windows = [
        [ring[i : i + b].any(0).sum(1) for i in range(EXAMPLES)] for b in range(1, EXAMPLES + 1)
    ]
    live = torch.stack([torch.stack(each).double().mean(0) for each in windows])  # (B, groups)
    alive = tuple(int(least) * reader.groups for least in live.amin(1).round())
    if features is not None and features.dim() == 2:
        return Limits(alive, _full(lambda b: rows[:b, 0].T @ features[:b], 1))
    narrow = groups[:, :, int(live[-1].argmin())]
    if reader.positions == 1 or reader.shared:
        return Limits(alive, None)
    return Limits(alive, _full(lambda b: narrow[:b].flatten(0, 1), reader.signal))


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
