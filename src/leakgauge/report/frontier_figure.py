"""The frontier figure, as inline SVG: leakage beyond the blind control against test accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leakgauge.records import Headline
from leakgauge.report.figures import caption, segment
from leakgauge.report.formats import FORMATS, Format, Scale
from leakgauge.report.frontier import Frontier, Setting
from leakgauge.report.labels import MARK, PITCH, Box, Placed, place
from leakgauge.report.recommendation import Recommendation, describe
from leakgauge.report.wording import beyond, plain, points

LEFT, RIGHT, TOP, WIDTH, HEIGHT = 58.0, 26.0, 34.0, 760.0, 330.0
INSET = 26.0
HEAD, FOOT = 14.0, 26.0
"""Space for marks and labels above the top of the axis and below the blind control, in CSS pixels."""
HUES = 8
"""Number of line colors in the style sheet. Further defenses use the same colors again."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Both axes of the figure.

    Args:
        low: Accuracy at the left end of the horizontal axis, in [0, 1].
        high: Accuracy at its right end.
        title: Title of the vertical axis.
        scale: End and ticks of the vertical axis.
        format: Format of the leakage.
    """

    low: float
    high: float
    title: str
    scale: Scale
    format: Format

    def x(self, accuracy: float) -> float:
        """Return the horizontal position of an accuracy."""
        fraction = (accuracy - self.low) / (self.high - self.low)
        return LEFT + INSET + (WIDTH - LEFT - RIGHT - 2 * INSET) * fraction

    def y(self, above: float) -> float:
        """Return the vertical position of a leakage. Values beyond the axis lie at its end."""
        return TOP + HEAD + (HEIGHT - HEAD - FOOT) * (1 - min(above / self.scale.top, 1.0))

    def at(self, setting: Setting) -> tuple[float, float]:
        """Return the position of a setting's mark."""
        return self.x(setting.accuracy or 0.0), self.y(setting.above)


def draw(frontier: Frontier, advice: Recommendation) -> Markup:
    """Return the figure of one case with the recommended setting marked. It is empty if no setting can be placed."""
    placed = frontier.placed
    if not placed or frontier.headline is None:
        return Markup("")
    frame = _frame(placed, frontier.headline)
    hues = {name: i % HUES for i, name in enumerate(_defenses(placed))}
    height = TOP + HEIGHT + 54
    parts = [
        *_zone(frontier, frame, advice.allowed),
        *_grid(frame),
        *_trajectories(placed, frame, hues),
        *_chosen(advice.chosen, frame),
        *_labels(placed, frame, hues),
        *(_mark(setting, frame, hues) for setting in placed),
    ]
    title = f"Leakage against accuracy, {frontier.case}: " + "; ".join(map(note, placed))
    head = (
        f'<svg class="sweep frontier" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img"'
        f' style="max-width:{1.25 * WIDTH:.0f}px" aria-label="{escape(title)}">'
    )
    return Markup(head + "".join(parts) + "</svg>")


def note(setting: Setting) -> str:
    """Return a setting in words, for the tooltip of its mark."""
    accuracy = f"{100 * (setting.accuracy or 0):.1f}%"
    text = f"{setting.name}: accuracy {accuracy}, {describe(setting.worst)}"
    return text + (f"; dominated by {setting.dominated_by}" if setting.dominated_by else "")


def _defenses(settings: Sequence[Setting]) -> list[str]:
    """Return the names of the defenses, each once."""
    return list(dict.fromkeys(s.defense for s in settings if not s.undefended))


def _frame(settings: Sequence[Setting], headline: Headline) -> Frame:
    """Return axes that hold all settings."""
    accuracies = [setting.accuracy or 0.0 for setting in settings]
    step = _step(max(accuracies) - min(accuracies))
    low = step * math.floor(min(accuracies) / step + 1e-9)
    high = min(1.0, step * math.ceil(max(accuracies) / step - 1e-9))
    if high - low < step / 2:
        low, high = max(0.0, low - step), min(1.0, high + step)
    format_ = FORMATS[headline.format]
    scale = format_.distances([setting.above for setting in settings])
    title = f"leakage {beyond([headline])} blind control, {headline.unit}"
    return Frame(low=low, high=high, title=title, scale=scale, format=format_)


def _step(span: float) -> float:
    """Return the distance between ticks, so that the span has at most six steps of up to 0.1."""
    return next((s for s in (0.005, 0.01, 0.02, 0.05, 0.1) if span / s <= 6), 0.2)


def _zone(frontier: Frontier, frame: Frame, allowed: float) -> list[str]:
    """Return the area in which the loss of accuracy is at most the allowed one."""
    base = next((s.accuracy for s in frontier.settings if s.undefended), None)
    if base is None:
        return []
    left = max(frame.x(base - allowed), LEFT)
    box = f'x="{left:.1f}" y="{TOP:g}" width="{WIDTH - RIGHT - left:.1f}" height="{HEIGHT:g}"'
    words = f"at most {points(allowed)} lost"
    return [
        f'<rect class="zone" {box}/>',
        segment(left, TOP, left, TOP + HEIGHT, "zone-edge"),
        caption(WIDTH - RIGHT, TOP - 9, words, "zone-label end"),
    ]


def _chosen(chosen: Setting | None, frame: Frame) -> list[str]:
    """Return a halo around the mark of the recommended setting."""
    if chosen is None:
        return []
    x, y = frame.at(chosen)
    return [
        f'<circle class="halo" cx="{x:.1f}" cy="{y:.1f}" r="13"><title>recommended</title></circle>'
    ]


def _grid(frame: Frame) -> list[str]:
    """Return the axes with their ticks and titles."""
    base, right = TOP + HEIGHT, WIDTH - RIGHT
    parts = [caption(LEFT - 40, TOP - 9, frame.title, "axis-title")]
    step = frame.scale.step
    for i in range(round(frame.scale.top / step) + 1):
        y = frame.y(i * step)
        parts.append(segment(LEFT, y, right, y, "level control" if i == 0 else "grid"))
        tick_text = frame.format.tick(i * step)
        # Larger values are drawn at the limit too.
        tick_text = f"≥ {tick_text}" if i * step == frame.scale.limit else tick_text
        parts.append(caption(LEFT - 8, y + 4, tick_text, "tick end"))
    parts.append(caption(LEFT + 4, frame.y(0) + 17, "blind control", "level-label control"))
    parts.append(segment(LEFT, base, right, base, "base"))
    tick = _step(frame.high - frame.low)
    for i in range(round((frame.high - frame.low) / tick) + 1):
        accuracy = frame.low + i * tick
        parts.append(segment(frame.x(accuracy), base, frame.x(accuracy), base + 5, "base"))
        parts.append(
            caption(frame.x(accuracy), base + 21, plain(100 * accuracy) + "%", "tick middle")
        )
    parts.append(caption((LEFT + right) / 2, base + 44, "test accuracy", "axis-title middle"))
    return parts


def _trajectories(settings: Sequence[Setting], frame: Frame, hues: dict[str, int]) -> list[str]:
    """Return lines that join the settings of each defense in the order of their strengths, and error bars."""
    parts = []
    for defense, hue in hues.items():
        own = [setting for setting in settings if setting.defense == defense]
        if all(isinstance(setting.strength, float) for setting in own):
            own.sort(key=lambda setting: float(setting.strength or 0.0))
        path = " ".join("{:.1f},{:.1f}".format(*frame.at(setting)) for setting in own)
        parts.append(
            f'<polyline class="trajectory hue{hue}" points="{path}"/>' if len(own) > 1 else ""
        )
    for setting in settings:
        # The bar reaches one standard deviation over repeats to either side.
        spread, (_, y) = setting.spread or 0.0, frame.at(setting)
        ends = [(setting.accuracy or 0.0) + side * spread for side in (-1, 1)]
        left, right = (frame.x(min(max(end, frame.low), frame.high)) for end in ends)
        if right - left > 2 * MARK:
            parts.append(segment(left, y, right, y, f"spread {_hue(setting, hues)}"))
    return parts


def _labels(settings: Sequence[Setting], frame: Frame, hues: dict[str, int]) -> list[str]:
    """Return the labels of the settings, with lines to those that are far from their marks."""
    texts = [_label(setting) for setting in settings]
    marks = [frame.at(setting) for setting in settings]
    bounds = Box(LEFT + 3, TOP + 2, WIDTH - 3, TOP + HEIGHT - 2)
    words = Box(LEFT, frame.y(0) + 5, LEFT + PITCH * 14, frame.y(0) + 22)
    placed = place(marks, texts, bounds, [words])
    parts = [
        _lead(mark, label, setting, hues)
        for mark, label, setting in zip(marks, placed, settings, strict=True)
    ]
    for text, label, setting in zip(texts, placed, settings, strict=True):
        parts.append(caption(label.x, label.y, text, f"value {label.anchor} {_hue(setting, hues)}"))
    return parts


def _lead(mark: tuple[float, float], label: Placed, setting: Setting, hues: dict[str, int]) -> str:
    """Return the line from a mark to a distant label, or an empty string if the label is near."""
    if label.lead is None:
        return ""
    return segment(*mark, *label.lead, f"lead {_hue(setting, hues)}")


def _label(setting: Setting) -> str:
    """Return the label of a setting: its defense and strength."""
    if setting.undefended:
        return "no defense"
    strength = "" if setting.strength is None else f" {plain(setting.strength)}"
    return setting.defense.replace("_", " ") + strength


def _hue(setting: Setting, hues: dict[str, int]) -> str:
    """Return the class in the style sheet for a setting's color."""
    return "bare" if setting.undefended else f"hue{hues[setting.defense]}"


def _mark(setting: Setting, frame: Frame, hues: dict[str, int]) -> str:
    """Return the mark of a setting: a circle if an example leaked, else a diamond. It is hollow if dominated."""
    x, y = frame.at(setting)
    style = f"spot {_hue(setting, hues)}{' hollow' if setting.dominated_by else ''}"
    title = f"<title>{escape(note(setting))}</title>"
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9.5"/>' if setting.undefended else ""
    if setting.leaked:
        return f'{ring}<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="5.5">{title}</circle>'
    shape = f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"
    return f'{ring}<path class="{style}" d="{shape}">{title}</path>'
