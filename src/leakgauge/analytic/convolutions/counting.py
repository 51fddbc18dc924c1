"""Batch sizes up to which the gradient of a weight determines the input of its layer, by counting equations.

The gradient of a convolution's weight is dW = Delta V. The P positions of B examples give V (B P, C K)
its rows, the patches. Delta (O, B P) is the gradient of the loss at the outputs. C, K and O are the
numbers of input channels, taps and output channels. A linear layer has K = 1, and P rows for each example.

Counts are those of exact arithmetic. Rounding can end a search below the counted batch.

References: Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.overlap import components, joined

SQUARE = 700
"""Most unknowns of a square system whose rank is tested with random signals."""
SINGULAR = 1e-11
"""Relative size of a singular value that counts as zero."""
MANY = 1 << 16
"""Batch size that stands for any batch."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer's weight gradient, as equations for the layer's input.

    Args:
        geometry: The places that the layer reads. A linear layer reads each of its rows once.
        channels: Number of input channels C, or of inputs of a linear layer.
        outputs: Number of output channels O that the gradient shows.
        groups: Number of groups of channels.
        rank: Rank of Delta for one example, at most P. None for P.
        shared: Rank that Delta loses once in every batch, as behind BatchNorm in train mode.
        copies: Number of gradients of one example that the update sums, such as its local steps.
        varying: Number of outputs whose signal differs between positions. None for all.
        alive: Numbers of outputs with a signal in batches of 1, 2 and more examples. Larger batches
            have the last one. Empty for `outputs` in any batch.
        most: Largest batch in which Delta was measured to have full rank. None if no limit was met.
    """

    geometry: Geometry
    channels: int
    outputs: int
    groups: int = 1
    rank: int | None = None
    shared: int = 0
    copies: int = 1
    varying: int | None = None
    alive: tuple[int, ...] = ()
    most: int | None = None

    @property
    def positions(self) -> int:
        """Number of positions P of one example."""
        return self.geometry.positions

    @property
    def rows(self) -> int:
        """Number of rows of the gradient that one group of channels has."""
        return self.outputs // self.groups

    def rows_in(self, batch: int) -> int:
        """Return the number of rows of the gradient that one group of channels has in a batch."""
        if not self.alive:
            return self.rows
        return min(self.rows, self.alive[min(batch, len(self.alive)) - 1] // self.groups)

    @property
    def signal(self) -> int:
        """Rank of Delta for one example."""
        return self.positions if self.rank is None else min(self.rank, self.positions)

    def span(self) -> int:
        """Return the largest batch whose inputs the row space of the gradient determines, or 0.

        The row space must be that of the patches: at most O positions in the batch. The patches must
        overlap, so that few inputs have all patches in the row space.
        """
        if self.signal < self.positions - 1 or not joined(self.geometry):
            return 0
        by_rank = largest(
            lambda batch: batch * max(1, self.signal) <= self.rows_in(batch) + self.shared
        )
        if self.most is not None:
            by_rank = min(by_rank, self.most)
        if self.varying is not None and self.positions > 1:
            # All other outputs add one rank for each example, however many they are.
            by_rank = min(by_rank, self.varying // self.groups // (self.positions - 1))
        return min(by_rank, self._unique()) // self.copies

    def _unique(self) -> int:
        """Return the largest batch at which equations outnumber the unknowns of the span.

        Each patch has C K numbers, and B P of them are free. The input has C N, and B are free.
        """
        channels, places, positions = (
            self.channels // self.groups,
            self.geometry.places,
            self.positions,
        )
        taps = int((self.geometry.sees < places).any(0).sum())
        if positions == 1:
            return channels * taps
        equations = channels * (positions * taps - places)
        return min(equations // (positions**2 - 1), (channels * taps - 1) // positions)

    def reason(self) -> str:
        """Return why the span is not determined even for one example, in numbers."""
        if self.span() > 0:
            return ""
        what = "channels" if self.groups == 1 else "channels of a group"
        if self.rows + self.shared < self.positions * self.copies:
            steps = f" in {self.copies} steps" if self.copies > 1 else ""
            return f"{self.rows} {what} for {self.positions} positions{steps}"
        if int(self.geometry.reads.max()) == 1:
            return "its patches do not overlap"
        if not joined(self.geometry):
            return "copies of the input at other places fit as well"
        if self.signal < self.positions - 1:
            return f"its signal has rank {self.signal} for {self.positions} positions"
        if self.varying is not None and self.varying < self.positions - 1:
            return f"{self.varying} channels with a varying signal for {self.positions} positions"
        return f"{self.channels // self.groups} input channels for {self.positions} positions"


def solved(readers: Sequence[Reader], known: float = 0.0) -> int:
    """Return the largest batch at which known signals determine the input of layers that read it.

    Args:
        readers: Layers that read the same input. Delta of each is known.
        known: Numbers of the layers' outputs that are known, for one example.
    """
    parts = components([reader.geometry for reader in readers])
    if not parts.all_read:
        return 0

    def holds(batch: int) -> bool:
        missing = 0
        for places, taps in parts.groups:
            size, equations, covered, closed = len(places), 0, False, True
            for index, count in taps:
                reader = readers[index]
                rows = reader.rows_in(batch)
                equations += min(rows, batch * min(count, reader.signal))
                full = count == size and reader.signal == reader.positions
                covered |= full and not reader.shared and rows > batch * size
                closed &= count == reader.positions and bool(reader.shared)
            # Signals that sum to 0 over all positions leave the sum of these places open.
            enough = covered or equations > batch * size
            if equations == batch * size and not enough:
                enough = is_square_solved(readers, places, batch)
            if closed or not enough:
                missing += max(1, batch * size - equations)
        return missing == 0 or readers[0].channels * missing < known * batch

    return largest(holds)


def is_square_solved(readers: Sequence[Reader], places: Tensor, batch: int) -> bool:
    """Return whether random signals determine places, where equations equal unknowns.

    Args:
        readers: Layers that read the same input.
        places: Indices of the places of one component.
        batch: Batch size. Beyond SQUARE unknowns the answer is False, as a caution.
    """
    full = all(r.signal == r.positions and not r.shared for r in readers)
    if batch * len(places) > SQUARE or not full:
        return False
    generator, blocks = torch.Generator().manual_seed(0), []
    for reader in readers:
        geometry, rows = reader.geometry, reader.rows_in(batch)
        shape = (rows, batch, geometry.positions)
        signal = torch.randn(shape, generator=generator, dtype=torch.float64)
        block = signal.new_zeros(rows, geometry.taps, batch, geometry.places + 1)
        for tap in range(geometry.taps):
            block[:, tap].index_add_(2, geometry.sees[:, tap], signal)
        blocks.append(block[..., places].reshape(rows * geometry.taps, -1))
    sizes = torch.linalg.svdvals(torch.cat(blocks))
    return len(sizes) == batch * len(places) and bool(sizes[-1] > SINGULAR * sizes[0])


def largest(holds: Callable[[int], bool]) -> int:
    """Return the largest batch for which a condition holds, at most MANY. It holds for all smaller ones."""
    if not holds(1):
        return 0
    low = 1
    while low < MANY and holds(2 * low):
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return min(low, MANY)
