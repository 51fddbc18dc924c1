"""The frontier as a picture, from the JSON of `frontier.py`: leakage above the control against accuracy.

Run `python benchmarks/frontier_figure.py results/frontier.json --out ../docs/frontier.svg`.

No attack runs. A mark is a setting. It is a circle if an example leaked to one of the adversaries,
else a diamond. It is hollow if another setting leaks no more and is no less accurate. Settings of
one defense are joined by a line, and named once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from common import Row
from frontier import dominating, leakage, summary
from frontier_settings import SETTINGS, of_data, of_gradient, of_model

from leakgauge.report.figures import caption, segment
from leakgauge.report.labels import Box, place

PANELS = {"data": of_data, "model": of_model, "gradient": of_gradient}
HIGHEST = 25.0
"""Largest leakage in dB above the control that is drawn. Larger values are drawn at this height."""
LEFT, TOP, WIDTH, HEIGHT, GAP = 62.0, 64.0, 400.0, 420.0, 22.0
HUES = (
    "#0f62a8",
    "#b0440a",
    "#1c7547",
    "#83389a",
    "#a8184a",
    "#6a6200",
    "#00717a",
    "#6b4a2b",
    "#3f4a9e",
    "#c2185b",
    "#4d7c0f",
    "#7c3aed",
    "#0e7490",
    "#92400e",
)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3b424c } .head { font-size: 15px; font-weight: 650; fill: #1f2430 }
.name { font-size: 12px; font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 3.5px }
.end { text-anchor: end } .middle { text-anchor: middle } .start { text-anchor: start }
.grid { stroke: #e3e6ea } .base { stroke: #6b7280 } .control { stroke: #0f62a8; stroke-dasharray: 5 4 }
polyline { fill: none; stroke-width: 1.3; stroke-opacity: .5 } .lead { stroke-opacity: .5; stroke: #6b7280 }
"""


@dataclass(frozen=True)
class Mark:
    """One setting in a panel."""

    family: str
    name: str
    accuracy: float
    above: float
    leaked: bool
    dominated: str


def marks_of(points: dict[str, Row], names: Sequence[str]) -> list[Mark]:
    """Return the marks of the settings that have both a leakage and an accuracy."""
    found = []
    for name in names:
        point = points.get(name, {})
        above = leakage(point)
        if above is None or "accuracy" not in point:
            continue
        verdicts = [*point.get("naive_leaked", []), *point.get("adaptive_leaked", [])]
        found.append(
            Mark(
                SETTINGS[name].family,
                name,
                point["accuracy"],
                above,
                any(verdicts),
                dominating(name, points),
            )
        )
    return found


@dataclass(frozen=True)
class Frame:
    """The axes, which all panels share, and the left end of a panel."""

    left: float
    low: float
    high: float
    bottom: float
    top: float

    def at(self, mark: Mark) -> tuple[float, float]:
        """Return the place of a setting."""
        return self.x(mark.accuracy), self.y(min(mark.above, self.top))

    def x(self, accuracy: float) -> float:
        """Return the horizontal place of an accuracy."""
        return self.left + 14 + (WIDTH - 28) * (accuracy - self.low) / (self.high - self.low)

    def y(self, above: float) -> float:
        """Return the vertical place of a leakage."""
        return TOP + HEIGHT - HEIGHT * (above - self.bottom) / (self.top - self.bottom)


def draw(rows: list[Row]) -> str:
    """Draw the whole figure as SVG."""
    points = {name: point for name in SETTINGS if (point := summary(name, rows))}
    everything = marks_of(points, list(SETTINGS))
    highest = min(HIGHEST, max(mark.above for mark in everything))
    accuracies = [mark.accuracy for mark in everything]
    low, high = 0.05 * (min(accuracies) // 0.05), 0.05 * (max(accuracies) // 0.05 + 1)
    parts = []
    for i, (title, settings) in enumerate(PANELS.items()):
        frame = Frame(LEFT + i * (WIDTH + GAP), low, high, -3.0, 5 * -(-highest // 5))
        marks = marks_of(points, ["none", *(one.name for one in settings())])
        parts += panel(title, marks, frame, first=i == 0)
    across = LEFT + len(PANELS) * (WIDTH + GAP)
    down = TOP + HEIGHT + 60
    words = (
        f"PSNR above the blind control, dB (at most {HIGHEST:g}), of the adversary that reads more"
    )
    parts.append(caption(LEFT - 44, 20, words, ""))
    told = "● an example leaked · ◆ none leaked · hollow: another setting leaks no more and is no less accurate"
    parts.append(caption(across - GAP, 20, told, "end"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:.0f} {down:.0f}" width="{across:.0f}">'
    paper = f'<rect width="{across:.0f}" height="{down:.0f}" fill="#fff"/>'
    return f"{head}<style>{STYLE}</style>{paper}{''.join(parts)}</svg>\n"


def panel(title: str, marks: list[Mark], frame: Frame, *, first: bool) -> list[str]:
    """Draw one family of defenses, with no defense for comparison."""
    right, base = frame.left + WIDTH, TOP + HEIGHT
    parts = [caption(frame.left, TOP - 14, f"Defenses of the {title}", "head")]
    for level in range(0, int(frame.top) + 1, 5):
        style = "control" if level == 0 else "grid"
        parts.append(segment(frame.left, frame.y(level), right, frame.y(level), style))
        if first:
            parts.append(caption(frame.left - 8, frame.y(level) + 4, str(level), "end"))
    parts.append(segment(frame.left, base, right, base, "base"))
    ticks = round((frame.high - frame.low) / 0.05)
    for i in range(ticks + 1):
        accuracy = frame.low + 0.05 * i
        parts.append(segment(frame.x(accuracy), base, frame.x(accuracy), base + 5, "base"))
        parts.append(caption(frame.x(accuracy), base + 20, f"{100 * accuracy:.0f}%", "middle"))
    parts.append(caption((frame.left + right) / 2, base + 42, "test accuracy", "middle"))
    families = list(dict.fromkeys(mark.family for mark in marks))
    hues = {name: HUES[(i - 1) % len(HUES)] for i, name in enumerate(families)} | {
        "none": "#1f2430"
    }
    for name in families:
        path = " ".join("{:.1f},{:.1f}".format(*frame.at(m)) for m in marks if m.family == name)
        parts.append(f'<polyline points="{path}" stroke="{hues[name]}"/>')
    return [*parts, *named(marks, families, frame, hues), *(drawn(m, frame, hues) for m in marks)]


def named(marks: list[Mark], families: list[str], frame: Frame, hues: dict[str, str]) -> list[str]:
    """Draw each defense's name at its best setting, where 2.5 dB are worth one point of accuracy."""
    chosen = []
    for name in families:
        own = [mark for mark in marks if mark.family == name]
        chosen.append(max(own, key=lambda m: m.accuracy - 0.004 * m.above))
    order = [*chosen, *(mark for mark in marks if mark not in chosen)]
    texts = [m.family if m.family != "none" else "no defense" for m in chosen]
    bounds = Box(frame.left + 2, TOP + 2, frame.left + WIDTH - 2, TOP + HEIGHT - 2)
    spots = [frame.at(mark) for mark in order]
    placed = place(spots, [*texts, *("" for _ in order[len(chosen) :])], bounds)
    parts = []
    for mark, label, text in zip(chosen, placed, texts, strict=False):
        if label.lead is not None:
            parts.append(segment(*frame.at(mark), *label.lead, "lead"))
        words = caption(label.x, label.y, text, f"name {label.anchor}")
        parts.append(words.replace("<text ", f'<text style="fill:{hues[mark.family]}" '))
    return parts


def drawn(mark: Mark, frame: Frame, hues: dict[str, str]) -> str:
    """Draw the mark of a setting, with its name as a tooltip."""
    x, y = frame.at(mark)
    hue = hues[mark.family]
    fill = "#fff" if mark.dominated else hue
    look = f'fill="{fill}" stroke="{hue}" stroke-width="1.8"'
    told = f"{mark.name}: accuracy {mark.accuracy:.3f}, {mark.above:.1f} dB above the control"
    title = f"<title>{escape(told)}</title>"
    if mark.leaked:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {look}>{title}</circle>'
    return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" {look}>{title}</path>'


def main() -> None:
    """Read the rows and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    given = parser.parse_args()
    given.out.write_text(draw(json.loads(given.results.read_text())["rows"]))


if __name__ == "__main__":
    main()
