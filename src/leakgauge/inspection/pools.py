"""Convolutions in front of a max pool, whose places of maxima `shift_consistency` finds together with the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.counting import Reader, largest
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.pool_descent import path_to_pool, why_not_sought
from leakgauge.analytic.convolutions.pool_windows import windows_of
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu

POSITIVE = 0.5
"""Fraction of a pool's outputs that count as known values of its input, behind a ReLU."""


@dataclass(frozen=True, eq=False)
class Pool:
    """A max pool behind a convolution.

    Args:
        outputs: Nodes whose value and signal tell those of the pool's output: itself, and a ReLU behind it.
        windows: Number of windows of each channel.
        rectified: Whether a ReLU is in front of the pool.
    """

    outputs: tuple[fx.Node, ...]
    windows: int
    rectified: bool

    def most(self, reader: Reader) -> int:
        """Return the largest batch at which the attack seeks the places, for the convolution in front."""

        def sought(batch: int) -> bool:
            alive = reader.rows_in(batch)
            shown = batch * alive * self.windows * (POSITIVE if self.rectified else 1)
            reason = why_not_sought(
                reader.geometry,
                reader.channels,
                batch,
                windows=self.windows,
                alive=alive,
                shown=int(shown),
            )
            return reason is None

        return largest(sought)


def pools_of(network: Network) -> dict[fx.Node, Pool]:
    """Return the max pools behind convolutions without groups that read their input alone, by the convolution."""
    found: dict[fx.Node, Pool] = {}
    if mixes(network):
        return found
    sources = [layer.source for layer in network.convolutions]
    for layer in network.convolutions:
        if layer.groups > 1 or sources.count(layer.source) > 1:
            continue
        path = path_to_pool(Propagation(network, 1), layer)
        windows = None if path is None else windows_of(path.pool)
        if path is None or windows is None:
            continue
        behind = [user for user in network.users(path.output) if is_relu(user)]
        alone = behind if len(network.users(path.output)) == 1 else []
        rectified = path.rectified or bool(alone)
        found[layer.node] = Pool((path.output, *alone), len(windows), rectified)
    return found
