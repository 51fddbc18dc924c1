"""The sweep figure, as inline SVG: leakage against a defense's strength.

Coordinates are SVG user units, about one CSS pixel each. y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leakgauge.report.formats import Format
from leakgauge.report.wording import plain

LEFT, RIGHT, TOP, HEIGHT = 44.0, 138.0, 22.0, 168.0
"""Margins left, right and above the axes, and height of the axes."""
SLOT, INSET = 68.0, 36.0
"""Width of a picture's place, and distance of the outermost points from the ends of the axis."""
THUMB = 60.0
"""Side of a picture."""
LOG_SPAN = 30.0
"""Ratio of largest to smallest strength above which the axis is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The result at one strength of a defense.

    Args:
        strength: The strength, a number or a name.
        value: Median score over examples, or None if there is no score.
        low: 10% quantile of the scores.
        high: 90% quantile of the scores.
        leaked: Whether an example leaked, or None if no example could be judged.
        weak: Whether an attack had not converged.
        picture: Data URI of a reconstruction, or None.
        note: The result in words, for the tooltip.
    """

    strength: float | str
    value: float | None
    low: float | None
    high: float | None
    leaked: bool | None
    weak: bool
    picture: str | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A level to compare with, drawn across the figure.

    Args:
        label: Its name.
        value: Its score, or None if it is unknown. It is then not drawn.
        style: Class in the style sheet: "open", "rule" or "control".
    """

    label: str
    value: float | None
    style: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The vertical axis: its title, its end, the distance between ticks, and the format of values."""

    title: str
    top: float
    step: float
    format: Format

    def y(self, value: float) -> float:
        """Return the vertical position of a value. Values beyond the axis lie at its end."""
        return TOP + HEIGHT * (1 - min(max(value / self.top, 0.0), 1.0))

    def text(self, value: float) -> str:
        """Return the text of a value beside its mark."""
        return self.format.short(value)


def scale(strengths: Sequence[float | str]) -> str:
    """Return the scale for strengths: "log", "linear" or "even".

    The scale is "log" if the ratio of the largest to the smallest strength exceeds LOG_SPAN. "even" keeps the given
    order with equal distances.
    """
    numbers = [s for s in strengths if not isinstance(s, str)]
    if len(numbers) < len(strengths) or len(set(numbers)) < 2:
        return "even"
    low, high = min(numbers), max(numbers)
    if low <= 0:
        # Zero has no logarithm. On a linear axis, a wide span would crowd points at one end.
        positive = [n for n in numbers if n > 0]
        wide = low < 0 or (bool(positive) and high / min(positive) > LOG_SPAN)
        return "even" if wide else "linear"
    return "log" if high / low > LOG_SPAN else "linear"


def places(strengths: Sequence[float | str], left: float, right: float) -> list[float]:
    """Return the horizontal positions of the strengths between two edges."""
    kind = scale(strengths)
    if kind == "even":
        width = (right - left) / max(len(strengths), 1)
        return [left + width * (i + 0.5) for i in range(len(strengths))]
    values = [float(s) for s in strengths]
    if kind == "log":
        values = [math.log10(v) for v in values]
    low, span = min(values), max(values) - min(values)
    return [left + INSET + (right - left - 2 * INSET) * (v - low) / span for v in values]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return ascending positions within [low, high], near the wanted ones and at least `gap` apart."""
    placed = list(wanted)
    for i in range(len(placed)):
        floor = placed[i - 1] + gap if i else low
        placed[i] = max(placed[i], floor)
    for i in reversed(range(len(placed))):
        ceiling = placed[i + 1] - gap if i + 1 < len(placed) else high
        placed[i] = min(placed[i], ceiling)
    return placed


def sweep(
    points: Sequence[Point],
    *,
    axis: Axis,
    strength_name: str,
    lines: Sequence[Line],
    original: str | None,
    title: str,
) -> Markup:
    """Return the figure, with pictures below it.

    Args:
        points: Results in the order of their strengths.
        axis: The vertical axis.
        strength_name: Title of the horizontal axis.
        lines: Levels to compare with.
        original: Data URI of the private original, or None.
        title: Text for readers who cannot see the figure.
    """
    right = LEFT + max(340.0, SLOT * len(points) + 8)
    pictures = original is not None or any(point.picture for point in points)
    height = TOP + HEIGHT + 62 + (THUMB + 34 if pictures else 0)
    xs = places([point.strength for point in points], LEFT, right)
    slots = spread(xs, SLOT, LEFT + SLOT / 2 - 8, right - SLOT / 2 + 8)
    parts = [
        *_grid(axis, right),
        *_levels(lines, axis, right),
        *_trajectory(points, xs, axis),
        *_marks(points, xs, axis),
        *_feet(points, xs, slots, strength_name, right),
        *(_thumbnails(points, slots, original, right) if pictures else ()),
    ]
    head = (
        f'<svg class="sweep" viewBox="0 0 {right + RIGHT:.0f} {height:.0f}" role="img"'
        f' style="max-width:{right + RIGHT:.0f}px" aria-label="{escape(title)}">'
    )
    # Each part escapes the words from records, so the whole is safe.
    return Markup(head + "".join(parts) + "</svg>")


def _grid(axis: Axis, right: float) -> list[str]:
    """Return the vertical axis with its ticks and title."""
    parts = [caption(LEFT, TOP - 9, axis.title, "axis-title")]
    for i in range(round(axis.top / axis.step) + 1):
        value = i * axis.step
        y = axis.y(value)
        parts.append(segment(LEFT, y, right, y, "base" if i == 0 else "grid"))
        parts.append(caption(LEFT - 7, y + 4, axis.format.tick(value), "tick end"))
    return parts


def _levels(lines: Sequence[Line], axis: Axis, right: float) -> list[str]:
    """Return the levels to compare with, and their labels at the right."""
    known = [(axis.y(line.value), line) for line in lines if line.value is not None]
    known.sort(key=lambda pair: pair[0])
    labels = spread([y for y, _ in known], 15.0, TOP, TOP + HEIGHT)
    parts = []
    for (y, line), at in zip(known, labels, strict=True):
        parts.append(segment(LEFT, y, right, y, f"level {line.style}"))
        parts.append(segment(right, y, right + 9, at, f"lead {line.style}"))
        label = f"{line.label} {axis.text(line.value or 0.0)}"
        parts.append(caption(right + 13, at + 4, label, f"level-label {line.style}"))
    return parts


def _trajectory(points: Sequence[Point], xs: Sequence[float], axis: Axis) -> list[str]:
    """Return the line that joins the points."""
    # Named settings have no order, so no line joins them.
    if any(isinstance(point.strength, str) for point in points):
        return []
    known = [(x, axis.y(p.value)) for x, p in zip(xs, points, strict=True) if p.value is not None]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    return [f'<polyline class="trajectory" points="{path}"/>'] if len(known) > 1 else []


def _marks(points: Sequence[Point], xs: Sequence[float], axis: Axis) -> list[str]:
    """Return the marks of the points with their ranges and values."""
    parts: list[str] = []
    last = (-math.inf, 0.0)
    for x, point in zip(xs, points, strict=True):
        if point.value is None:
            parts.append(caption(x, TOP + HEIGHT - 6, "no score", "tick middle"))
            continue
        y = axis.y(point.value)
        top = y
        if point.low is not None and point.high is not None and point.low < point.high:
            top = axis.y(point.high)
            parts.append(segment(x, axis.y(point.low), x, top, "range"))
        note = f"<title>{escape(point.note)}</title>"
        if point.leaked:
            parts.append(f'<circle class="point leaked" cx="{x:.1f}" cy="{y:.1f}" r="5.5">{note}')
            parts.append("</circle>")
        else:
            shape = f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"
            style = "held" if point.leaked is False else "unjudged"
            parts.append(f'<path class="point {style}" d="{shape}">{note}</path>')
        above = top - 10 if top > TOP + 12 else y + 20
        # The label of a near neighbor moves up, so that the two do not overlap.
        if x - last[0] < 30 and abs(above - last[1]) < 13:
            above = last[1] - 13
        last = (x, above)
        parts.append(caption(x, above, axis.text(point.value), "value middle"))
    return parts


def _feet(
    points: Sequence[Point], xs: Sequence[float], slots: Sequence[float], name: str, right: float
) -> list[str]:
    """Return the ticks, labels and title of the horizontal axis."""
    base = TOP + HEIGHT
    parts = []
    for x, slot, point in zip(xs, slots, points, strict=True):
        parts.append(segment(x, base, x, base + 5, "base"))
        parts.append(segment(x, base + 5, slot, base + 20, "connector"))
        parts.append(caption(slot, base + 34, plain(point.strength), "tick middle strong"))
    how = {"log": " (log scale)", "linear": "", "even": ""}[scale([p.strength for p in points])]
    parts.append(caption((LEFT + right) / 2, base + 54, f"{name}{how}", "axis-title middle"))
    return parts


def _thumbnails(
    points: Sequence[Point], slots: Sequence[float], original: str | None, right: float
) -> list[str]:
    """Return the pictures below the figure."""
    top = TOP + HEIGHT + 68
    parts = []
    for slot, point in zip(slots, points, strict=True):
        state = _state(point)
        parts.append(_image(slot, top, point.picture, f"reconstruction, {point.note}"))
        parts.append(caption(slot, top + THUMB + 16, state, f"state middle {state}"))
    if original:
        parts.append(_image(right + 62, top, original, "private original"))
        parts.append(caption(right + 62, top + THUMB + 16, "original", "state middle"))
    return parts


def _state(point: Point) -> str:
    """Return the words below the picture of a point."""
    if point.value is None:
        return "no score"
    return {True: "leaked", False: "held", None: "not judged"}[point.leaked]


def _image(middle: float, top: float, uri: str | None, words: str) -> str:
    """Return a picture with a tooltip, or an empty box if there is no picture."""
    box = f'x="{middle - THUMB / 2:.1f}" y="{top:.1f}" width="{THUMB:g}" height="{THUMB:g}"'
    if uri is None:
        return f'<rect class="absent" {box}/>'
    return f'<image {box} href="{escape(uri)}"><title>{escape(words)}</title></image>'


def segment(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a line from (x1, y1) to (x2, y2) with a class of the style sheet."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def caption(x: float, y: float, words: str, style: str) -> str:
    """Return words, escaped, at the baseline (x, y) with a class of the style sheet."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
