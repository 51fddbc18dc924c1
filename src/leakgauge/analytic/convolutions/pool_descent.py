"""The descent below max pools, where signals end unless the places of their maxima are known.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.descent import Descent, Step
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.inputs import Solved
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.network import Convolution, Network
from leakgauge.analytic.convolutions.operations import POOLS, is_rectified, name_of
from leakgauge.analytic.convolutions.pool_windows import windows_of
from leakgauge.analytic.convolutions.pools import read_below
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu, is_steady_norm
from leakgauge.core import Inapplicable

STARTS = 2
"""Largest number of starts."""
LARGEST = 2304
"""Largest number of unknowns of one channel, over the batch, for which places are sought."""

Rough = Callable[[fx.Node, fx.Node, Tensor], Iterator[Tensor]]
"""Map from a convolution's input, a pool's output and its values `(B, O, W)` to rough inputs `(B, ...)`, one by one."""


@dataclass(frozen=True, eq=False)
class PoolPath:
    """The way from a convolution's output to a max pool's output.

    Args:
        factor: (O,), factor from the convolution's output to the pool's input.
        shift: (O,), shift between the two.
        rectified: Whether a ReLU is in front of the pool.
        pool: The node of the pool.
        output: The node of its output.
    """

    factor: Tensor
    shift: Tensor
    rectified: bool
    pool: fx.Node
    output: fx.Node


@dataclass(frozen=True, eq=False)
class PoolEnd:
    """The max pool at which a descent ended.

    Args:
        layer: The convolution in front of it.
        output: The node of the pool's known output, perhaps behind a ReLU.
        pooled: What is known of both.
    """

    layer: Convolution
    output: fx.Node
    pooled: Pooled


def descend_below_pools(descent: Descent, rough: Rough) -> None:
    """Go on with a descent that ended at a max pool, as long as the places of the maxima are found.

    Args:
        descent: A descent that ended.
        rough: Rough values of the unknown inputs. The first ones are tried first.
    """
    while True:
        end = pool_at_the_end(descent)
        if end is None:
            return
        layer, pooled = end.layer, end.pooled
        reason = _refusal(pooled)
        if reason is not None:
            descent.stopped = f"{layer.name}: {reason}"
            return
        solved: Solved | Inapplicable = Inapplicable("no start")
        starts = STARTS if pooled.ample else 1
        for start in islice(rough(layer.source, end.output, pooled.value), starts):
            solved = read_below(pooled, start.flatten(2), beat=descent.beat)
            if not isinstance(solved, Inapplicable):
                break
        if isinstance(solved, Inapplicable):
            descent.stopped = f"{layer.name}: {solved.reason}{_why_one_start(pooled)}"
            return
        shape = layer.source.meta["val"].shape[1:]
        descent.known.learn(layer.source, solved.inputs.reshape(-1, *shape), error=descent.error)
        descent.known.settle(layer.node)
        names, counts = (layer.name,), (solved.equations, solved.unknowns)
        descent.steps.append(Step(names, layer.source, solved.misfit, *counts, 0))
        descent.stopped = ""
        descent.run()


def _why_one_start(pooled: Pooled) -> str:
    """Return why no second start was tried, as the end of a sentence. Empty if it was."""
    if pooled.ample:
        return ""
    equations, unknowns = pooled.counts
    return (
        f". No other start was tried, since the gradient has {equations} equations for {unknowns} values of "
        "each channel"
    )


def _refusal(pooled: Pooled) -> str | None:
    """Return why the places of a max pool are not sought, or None."""
    batch, _, windows = pooled.value.shape
    alive, shown = int(pooled.sent.any(2).any(0).sum()), int(pooled.shown.sum())
    return why_not_sought(
        pooled.geometry, pooled.weight.shape[1], batch, windows=windows, alive=alive, shown=shown
    )


def why_not_sought(
    geometry: Geometry, channels: int, batch: int, *, windows: int, alive: int, shown: int
) -> str | None:
    """Return why counting shows that the places of a max pool's maxima are not sought, or None.

    Args:
        geometry: The places that the convolution in front of the pool reads.
        channels: Number of its input channels.
        batch: Batch size.
        windows: Number of windows of each channel, for one example.
        alive: Number of output channels with a signal.
        shown: Number of windows of the batch whose output is not a ReLU's 0.
    """
    unknowns, entries = batch * geometry.places, channels * geometry.taps
    if entries < batch * windows:
        return (
            f"a max pool behind it with {batch * windows} windows of each channel, for {entries} entries of the "
            "channel's gradient"
        )
    equations = alive * geometry.taps * channels + shown
    if equations < unknowns * channels:
        return (
            f"a max pool behind it, and {equations} equations for {unknowns * channels} values, even if the places "
            "of its maxima were known"
        )
    if unknowns > LARGEST:
        return (
            f"a max pool behind it, and {unknowns} unknowns of each channel. Places of maxima are sought up to "
            f"{LARGEST}"
        )
    return None


def pool_at_the_end(descent: Descent) -> PoolEnd | None:
    """Return the first convolution whose input is not known, if a max pool with a known signal follows it."""
    known = descent.known
    for source, layers in descent.groups():
        if known.value(source) is not None:
            continue
        (layer, *others) = layers
        path = None if others or layer.groups > 1 else path_to_pool(known, layer)
        return None if path is None else _end(known, layer, path, descent.gradients[layer.name])
    return None


def path_to_pool(known: Propagation, layer: Convolution) -> PoolPath | None:
    """Return the way to the max pool behind a convolution, or None if other operations follow."""
    network, outputs = known.network, len(layer.weight)
    factor = torch.ones(outputs, dtype=torch.float64)
    shift = torch.zeros_like(factor) if layer.bias is None else layer.bias.flatten()
    node, rectified = layer.node, False
    while (user := _only_user(network, node)) is not None:
        if is_relu(user):
            rectified = True
        elif is_steady_norm(user) and not rectified:
            scale, offset = (t.flatten() for t in known.affine(user))
            factor, shift = factor * scale, shift * scale + offset
        elif name_of(user) in POOLS:
            output = _only_user(network, user)
            return None if output is None else PoolPath(factor, shift, rectified, user, output)
        elif name_of(user) != "getitem":
            return None
        node = user
    return None


def _only_user(network: Network, node: fx.Node) -> fx.Node | None:
    """Return the operation that uses a node, or None if there are several."""
    users = network.users(node)
    return users[0] if len(users) == 1 else None


def _end(known: Propagation, layer: Convolution, path: PoolPath, dweight: Tensor) -> PoolEnd | None:
    """Return what is known of a max pool, or None if its output, its signal or its form is not known."""
    after = _only_user(known.network, path.output)
    if known.value(path.output) is None and after is not None and is_relu(after):
        # The ReLU behind the pool may as well be in front of it.
        path = replace(path, output=after, rectified=True)
    value, signal = known.value(path.output), known.signal(path.output)
    windows = windows_of(path.pool)
    if value is None or signal is None or windows is None or not bool(path.factor.all()):
        return None
    pooled = Pooled(
        geometry=layer.geometry,
        weight=layer.weight.flatten(2),
        dweight=dweight.flatten(2),
        factor=path.factor,
        shift=path.shift,
        windows=windows,
        value=value.flatten(2),
        signal=signal.flatten(2),
        rectified=path.rectified,
        positive=is_rectified(layer.source),
    )
    return PoolEnd(layer, path.output, pooled)
