"""The sweep figure: leakage against a defense's strength, as inline SVG drawn by hand.

Coordinates are SVG user units, about one CSS pixel each; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leakgauge.report.formats import Format
from leakgauge.report.wording import plain

LEFT, RIGHT, TOP, HEIGHT = 44.0, 138.0, 22.0, 168.0
SLOT, INSET = 68.0, 36.0
THUMB = 60.0
LOG_SPAN = 30.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One strength: the median leakage with its 10-90% range, and a picture's data URI."""

    strength: float | str
    value: float | None
    low: float | None
    high: float | None
    leaked: bool | None  # None if no example could be judged
    weak: bool  # the attack had not converged
    picture: str | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A level to compare with, drawn across the figure."""

    label: str
    value: float | None
    style: str  # "open", "rule" or "control"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The vertical axis: its title, its top, the distance of its ticks, and how values read."""

    title: str
    top: float
    step: float
    format: Format

    def y(self, value: float) -> float:
        """Where a value lies; what is beyond the axis lies on its edge."""
        return TOP + HEIGHT * (1 - min(max(value / self.top, 0.0), 1.0))

    def text(self, value: float) -> str:
        """How a value reads beside its mark."""
        return self.format.short(value)


def scale(strengths: Sequence[float | str]) -> str:
    """How strengths are placed: "log" past a 30-fold span, "linear", or "even" in given order."""
    numbers = [s for s in strengths if not isinstance(s, str)]
    if len(numbers) < len(strengths) or len(set(numbers)) < 2:
        return "even"
    low, high = min(numbers), max(numbers)
    if low <= 0:
        # Zero has no logarithm, and a linear axis would crowd a wide span against one edge.
        positive = [n for n in numbers if n > 0]
        wide = low < 0 or (bool(positive) and high / min(positive) > LOG_SPAN)
        return "even" if wide else "linear"
    return "log" if high / low > LOG_SPAN else "linear"


def places(strengths: Sequence[float | str], left: float, right: float) -> list[float]:
    """Horizontal positions of the strengths between two edges."""
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
    """Ascending positions at least `gap` apart within [low, high], close to those wanted."""
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
    """The figure, its points in the order of their strengths, with their pictures below."""
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
    # Every part escapes the words that it takes from records.
    return Markup(head + "".join(parts) + "</svg>")


def _grid(axis: Axis, right: float) -> list[str]:
    parts = [caption(LEFT, TOP - 9, axis.title, "axis-title")]
    for i in range(round(axis.top / axis.step) + 1):
        value = i * axis.step
        y = axis.y(value)
        parts.append(segment(LEFT, y, right, y, "base" if i == 0 else "grid"))
        parts.append(caption(LEFT - 7, y + 4, axis.format.tick(value), "tick end"))
    return parts


def _levels(lines: Sequence[Line], axis: Axis, right: float) -> list[str]:
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
    # Between named settings there is nothing: only numbers are joined.
    if any(isinstance(point.strength, str) for point in points):
        return []
    known = [(x, axis.y(p.value)) for x, p in zip(xs, points, strict=True) if p.value is not None]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    return [f'<polyline class="trajectory" points="{path}"/>'] if len(known) > 1 else []


def _marks(points: Sequence[Point], xs: Sequence[float], axis: Axis) -> list[str]:
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
        # Labels of near neighbors climb over each other.
        if x - last[0] < 30 and abs(above - last[1]) < 13:
            above = last[1] - 13
        last = (x, above)
        parts.append(caption(x, above, axis.text(point.value), "value middle"))
    return parts


def _feet(
    points: Sequence[Point], xs: Sequence[float], slots: Sequence[float], name: str, right: float
) -> list[str]:
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
    """Return what is said below the picture of a point."""
    if point.value is None:
        return "no score"
    return {True: "leaked", False: "held", None: "not judged"}[point.leaked]


def _image(middle: float, top: float, uri: str | None, words: str) -> str:
    box = f'x="{middle - THUMB / 2:.1f}" y="{top:.1f}" width="{THUMB:g}" height="{THUMB:g}"'
    if uri is None:
        return f'<rect class="absent" {box}/>'
    return f'<image {box} href="{escape(uri)}"><title>{escape(words)}</title></image>'


def segment(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A line of a class of style."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def caption(x: float, y: float, words: str, style: str) -> str:
    """Escaped words of a class of style, at their baseline."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
