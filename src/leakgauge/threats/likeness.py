"""Recognition of an example after a scale, a shift, a mirroring or a change of its axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Self

import torch
from torch import Tensor

from leakgauge.core.summaries import Summarized

ALIKE = 0.01
"""Largest distance of a copy from an example, relative to its spread. An 8-bit copy of an image has 0.004."""
VARIED = 16
"""Fewest distinct values, and fewest distinct steps between them, of an example that can be recognized."""
AXES = 3
"""Most axes of an example whose orders are all tried."""
ROWS = 64
"""Most rows whose variants are compared at once."""


@dataclass(frozen=True, repr=False)
class Likeness(Summarized):
    """Examples of one shape, standardized to mean 0 and length 1.

    The sum of fourth powers does not depend on order, scale, shift or sign. It quickly rules out
    most other arrays.

    Args:
        shape: Shape (F...) of one example.
        rows: Standardized examples (N, F).
        fourth: Sums of their fourth powers (N,).
        slack: Largest difference (N,) of this sum in a copy.
    """

    shape: tuple[int, ...]
    rows: Tensor
    fourth: Tensor
    slack: Tensor

    @classmethod
    def of(cls, examples: Tensor) -> Self:
        """Return the standardized form of `examples` (N, F...). Examples that are too regular are left out."""
        rows = standardize(examples.double().flatten(1))
        rows = rows[is_varied(rows)]
        # The change of the sum, to first and second order in the distance of a copy.
        first = 4 * ALIKE * (rows**6).sum(1).sqrt()
        second = 6 * ALIKE**2 * (rows**2).amax(1) if len(rows) else first
        shape = tuple(examples.shape[1:])
        return cls(shape, rows, (rows**4).sum(1), 1.1 * (first + second))

    def holds(self, rows: Tensor) -> bool:
        """Return whether one of `rows` (R, F) is like an example."""
        if not len(self.rows):
            return False
        made = standardize(rows.to(self.rows))
        near = ((made**4).sum(1)[:, None] - self.fourth).abs() <= self.slack
        left = made[near.any(1)]
        for start in range(0, len(left), ROWS):
            for turned in variants(left[start : start + ROWS], self.shape):
                close = (turned @ self.rows.T).abs() >= 1 - ALIKE**2 / 2
                if bool(close.any()):
                    return True
        return False


def standardize(rows: Tensor) -> Tensor:
    """Return rows (R, F) minus their mean, divided by their length. Constant rows become 0."""
    centered = rows - rows.mean(1, keepdim=True)
    length = centered.norm(dim=1, keepdim=True)
    # A constant row leaves only rounding errors, which have no direction.
    solid = length > 1e-6 * rows.norm(dim=1, keepdim=True)
    return torch.where(solid, centered / length, 0.0)


def is_varied(rows: Tensor) -> Tensor:
    """Return which standardized rows (N, F) have many values and many steps. Ramps and masks have few."""
    return (_levels(rows) >= VARIED) & (_levels(rows.diff(dim=1)) >= VARIED)


def _levels(rows: Tensor) -> Tensor:
    """Return the number of levels (N,) of each row. A level is a thousandth of the root mean square."""
    scale = rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
    levels = (1e3 * rows / scale).round().sort(1).values
    return (levels.diff(dim=1) > 0).sum(1) + 1


def variants(rows: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield rows (R, F) with their axes in each order, and mirrored along each axis.

    Args:
        rows: The rows.
        shape: Shape (F...) of one example. An example of more than `AXES` axes is only reversed as
            a whole.
    """
    if len(shape) > AXES:
        shape = (rows.shape[1],)
    axes = range(len(shape))
    for order in permutations(axes):
        laid = rows.reshape(len(rows), *(shape[axis] for axis in order))
        back = laid.permute(0, *(1 + order.index(axis) for axis in axes))
        for chosen in product((False, True), repeat=len(shape)):
            mirrored = [1 + axis for axis in axes if chosen[axis] and shape[axis] > 1]
            if len(mirrored) == sum(chosen):
                yield back.flip(mirrored).reshape(len(rows), -1)


__all__ = ["ALIKE", "Likeness"]
