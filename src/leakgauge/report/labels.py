"""Placement of the labels of points in a figure, so that labels cover neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

DISTANCES = (0.0, 10.0, 22.0, 36.0, 52.0, 70.0, 90.0, 112.0, 136.0, 162.0)
"""Distances to try between a label and its mark, nearest first, in CSS pixels."""
ANGLES = (0, 180, 315, 45, 225, 135, 270, 90, 337, 23, 203, 157, 292, 248, 68, 112)
"""Directions to try from a mark to its label, best first, in degrees clockwise from the right."""
MARK, PITCH, LINE, CLEAR = 9.0, 7.2, 14.0, 20.0
"""Lengths in CSS pixels: half the width of a mark with its margin, width of a character, and height of a line of text.
CLEAR is the distance beyond which a reader no longer relates a label to a mark."""


@dataclass(frozen=True)
class Box:
    """A rectangle, given by its edges. y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        """Return whether this box lies inside another."""
        across = self.left >= other.left and self.right <= other.right
        return across and self.top >= other.top and self.bottom <= other.bottom

    def gap(self, point: tuple[float, float]) -> float:
        """Return the distance of a point from the box, 0 if it lies inside."""
        across = max(self.left - point[0], point[0] - self.right, 0.0)
        down = max(self.top - point[1], point[1] - self.bottom, 0.0)
        return math.hypot(across, down)


@dataclass(frozen=True)
class Placed:
    """The place of a label.

    Args:
        x: Horizontal position of the label's anchor.
        y: Its baseline.
        anchor: The part of the label that stands at `x`, as in SVG: "start", "middle" or "end".
        lead: End of the line that connects the mark with a distant label, or None if the label is near.
    """

    x: float
    y: float
    anchor: str
    lead: tuple[float, float] | None


def place(
    marks: Sequence[tuple[float, float]],
    texts: Sequence[str],
    bounds: Box,
    taken: Sequence[Box] = (),
) -> list[Placed]:
    """Return a place for the label of each mark: the nearest free place, or right of the mark if none is free.

    Args:
        marks: Centers of the marks.
        texts: Labels of the marks, in the same order.
        bounds: Box within which labels must stay.
        taken: Boxes that labels must not cover.
    """
    points = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    filled: list[Box] = [*taken]
    found: dict[int, Placed] = {}
    # Marks with the most neighbors have the fewest free places, so they choose first.
    crowd = [sum(math.dist(one, other) < 60 for other in marks) for one in marks]
    for i in sorted(range(len(marks)), key=lambda i: (-crowd[i], marks[i])):
        width = PITCH * len(texts[i])
        others = [mark for j, mark in enumerate(marks) if j != i]
        blocked = [*filled, *points[:i], *points[i + 1 :]]
        placed, box = _nearest(marks[i], others, width, partial(_free, bounds, blocked))
        found[i] = placed
        filled.append(box)
    return [found[i] for i in range(len(marks))]


def _free(bounds: Box, blocked: Sequence[Box], box: Box) -> bool:
    """Return whether a box lies within the bounds and overlaps no blocked box."""
    return box.within(bounds) and not any(box.overlaps(other) for other in blocked)


def _nearest(
    mark: tuple[float, float],
    others: Sequence[tuple[float, float]],
    width: float,
    free: Callable[[Box], bool],
) -> tuple[Placed, Box]:
    """Return the nearest free place of a label, and its box.

    Places near another mark come last: a reader could relate the label to the wrong mark.
    """
    candidates = [_at(mark, width, d, angle) for d in DISTANCES for angle in ANGLES]
    fitting = [(placed, box) for placed, box in candidates if free(box)]
    for placed, box in fitting:
        own = box.gap(mark)
        if all(box.gap(other) > min(own + 4, CLEAR) for other in others):
            return placed, box
    return next(iter(fitting), candidates[0])


def _at(
    mark: tuple[float, float], width: float, distance: float, angle: float
) -> tuple[Placed, Box]:
    """Return the place and the box of a label at a distance (CSS pixels) and an angle (degrees) from its mark."""
    along, down = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    reach = MARK + distance
    x, y = mark[0] + reach * along, mark[1] + reach * down
    anchor = "start" if along > 0.3 else ("end" if along < -0.3 else "middle")
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    middle = y + LINE / 2 * down
    box = Box(left, middle - LINE / 2, left + width, middle + LINE / 2)
    return Placed(x, middle + 4, anchor, (x, y) if distance > 12 else None), box
