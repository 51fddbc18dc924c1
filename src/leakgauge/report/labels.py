"""Where labels of points go, so that they lie over neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DISTANCES = (0.0, 10.0, 22.0, 36.0, 52.0, 70.0, 90.0, 112.0, 136.0, 162.0)
ANGLES = (0, 180, 315, 45, 225, 135, 270, 90, 337, 23, 203, 157, 292, 248, 68, 112)
"""Degrees, clockwise from the right, best first."""
MARK, PITCH, LINE = 9.0, 7.2, 14.0
"""Half a point with its air; a character; a line of text. CSS pixels."""


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        """Whether it lies inside."""
        across = self.left >= other.left and self.right <= other.right
        return across and self.top >= other.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Placed:
    """A label's left end and baseline, and the end of the line that leads to it where it is far."""

    x: float
    y: float
    lead: tuple[float, float] | None


def place(
    marks: Sequence[tuple[float, float]],
    texts: Sequence[str],
    bounds: Box,
    taken: Sequence[Box] = (),
) -> list[Placed]:
    """A place for the label of each mark, the nearest that is free; beside its mark where none is."""
    points = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    filled: list[Box] = [*taken]
    found: dict[int, Placed] = {}
    # Those with most neighbors have least choice.
    crowd = [sum(math.dist(one, other) < 60 for other in marks) for one in marks]
    for i in sorted(range(len(marks)), key=lambda i: (crowd[i], marks[i])):
        width = PITCH * len(texts[i])
        placed, box = _nearest(marks[i], width, bounds, [*filled, *points[:i], *points[i + 1 :]])
        found[i] = placed
        filled.append(box)
    return [found[i] for i in range(len(marks))]


def _nearest(
    mark: tuple[float, float], width: float, bounds: Box, others: Sequence[Box]
) -> tuple[Placed, Box]:
    for distance in DISTANCES:
        for angle in ANGLES:
            placed, box = _at(mark, width, distance, angle)
            if box.within(bounds) and not any(box.overlaps(other) for other in others):
                return placed, box
    return _at(mark, width, 0.0, 0)


def _at(
    mark: tuple[float, float], width: float, distance: float, angle: float
) -> tuple[Placed, Box]:
    """The label whose nearest edge lies so far from the mark's own, in this direction."""
    along, down = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    reach = MARK + distance
    x, y = mark[0] + reach * along, mark[1] + reach * down
    left = x if along > 0.3 else (x - width if along < -0.3 else x - width / 2)
    middle = y + LINE / 2 * down
    box = Box(left, middle - LINE / 2, left + width, middle + LINE / 2)
    return Placed(left, middle + 4, (x, y) if distance > 12 else None), box
