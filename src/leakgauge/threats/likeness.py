"""Recognize an example after one scale, one shift, a mirroring or a change of its axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Self

import torch
from torch import Tensor

from leakgauge.core.summaries import Summarized

ALIKE = 0.01
"""Largest distance of a copy from an example, relative to its spread. An 8-bit copy of an image has about 0.004."""
VARIED = 16
"""Fewest distinct values, and fewest distinct steps between them, of an example that is recognized in this way."""
AXES = 3
"""Most axes of an example that are put in every order."""
ROWS = 64
"""Most rows whose variants are compared at once."""


@dataclass(frozen=True, repr=False)
class Likeness(Summarized):
    """Examples of one shape, standardized: each with mean 0 and length 1.

    shape: (F...) of one example. rows: (N, F). fourth: (N,) sums of the fourth powers. slack: (N,) by which those
    of a copy may differ. The sum depends on no order, scale, shift or sign, and so it tells most other arrays apart.
    """

    shape: tuple[int, ...]
    rows: Tensor
    fourth: Tensor
    slack: Tensor

    @classmethod
    def of(cls, examples: Tensor) -> Self:
        """Return the form of `examples` (N, F...). Those that are too regular to tell anything are left out."""
        rows = standardized(examples.double().flatten(1))
        rows = rows[varied(rows)]
        # To first and second order in a copy's distance ALIKE.
        first = 4 * ALIKE * (rows**6).sum(1).sqrt()
        second = 6 * ALIKE**2 * (rows**2).amax(1) if len(rows) else first
        shape = tuple(examples.shape[1:])
        return cls(shape, rows, (rows**4).sum(1), 1.1 * (first + second))

    def holds(self, rows: Tensor) -> bool:
        """Return whether one of `rows` (R, F) is like an example."""
        if not len(self.rows):
            return False
        made = standardized(rows.to(self.rows))
        near = ((made**4).sum(1)[:, None] - self.fourth).abs() <= self.slack
        left = made[near.any(1)]
        for start in range(0, len(left), ROWS):
            for turned in variants(left[start : start + ROWS], self.shape):
                alike = (turned @ self.rows.T).abs() >= 1 - ALIKE**2 / 2
                if bool(alike.any()):
                    return True
        return False


def standardized(rows: Tensor) -> Tensor:
    """Return rows (R, F) less their mean and divided by their length. Constant rows become 0."""
    centered = rows - rows.mean(1, keepdim=True)
    length = centered.norm(dim=1, keepdim=True)
    # What rounding leaves of a constant row has no direction.
    solid = length > 1e-6 * rows.norm(dim=1, keepdim=True)
    return torch.where(solid, centered / length, 0.0)


def varied(rows: Tensor) -> Tensor:
    """Return which standardized rows (N, F) have many values and many steps. Ramps and masks have few."""
    return (_levels(rows) >= VARIED) & (_levels(rows.diff(dim=1)) >= VARIED)


def _levels(rows: Tensor) -> Tensor:
    """Return how many levels (N,) of a thousandth of the root mean square each row takes."""
    scale = rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
    levels = (1e3 * rows / scale).round().sort(1).values
    return (levels.diff(dim=1) > 0).sum(1) + 1


def variants(rows: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield rows (R, F) as they would be if their axes had been put in each order and mirrored.

    shape: that of one example (F...). Those of more than `AXES` axes are reversed as a whole alone.
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
