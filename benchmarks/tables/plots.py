"""Plots of tables as SVG, legible on a light and on a dark page."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tables.page import Plot
from tables.table import Line, Table

AXES = "#7b8694"
"""A gray with enough contrast on white and on nearly black."""
HUES = ("#2f81d6", "#d9732a", "#2a9d63", "#a35bd1", "#c9434f", "#8f8a1f", "#1f9da8", "#9a6a43")
SCORE, OTHER = HUES[0], HUES[1]
WIDTH, ROW, CURVES, LEGEND = 5.2, 0.21, 1.8, 0.7
"""Inches: the width of a plot, and the heights of one line, of one panel of curves, and of the legend."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leakgauge",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": AXES,
    "axes.labelcolor": AXES,
    "axes.edgecolor": AXES,
    "xtick.color": AXES,
    "ytick.color": AXES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def draw(plot: Plot, tables: Sequence[Table]) -> str:
    """Return the plot of a page's tables as SVG."""
    shown = [tables[at] for at in plot.tables] if plot.tables is not None else list(tables)
    shown = [table for table in shown if table.has(plot.value) or table.has(plot.other)]
    with mpl.rc_context(STYLE):
        figure = curves(plot, shown) if plot.across else marks(plot, shown)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    # Lines that end in spaces would change with an editor.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def panels(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure and one panel for each height in inches, one below another."""
    figure = Figure(figsize=(WIDTH, sum(heights) + LEGEND), layout="constrained")
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights))
    return figure, [axes for (axes,) in grid]


def marks(plot: Plot, tables: Sequence[Table]) -> Figure:
    """Return a figure with one mark for each line, and its control beside it. Each table is a panel."""
    words = [[label(plot, table, line) for line in table.lines] for table in tables]
    figure, found = panels([0.65 + ROW * places(own)[-1] for own in words])
    for axes, table, own in zip(found, tables, words, strict=True):
        *at, bottom = places(own)
        for y, pair in zip(at, ends(plot, table), strict=True):
            if pair is not None:
                axes.plot(pair, [y, y], color=SCORE, alpha=0.4, linewidth=3.5)
        for head, style in series(plot):
            if table.has(head):
                pairs = zip(table.column(head), at, strict=True)
                points = [(v, y) for v, y in pairs if v is not None and math.isfinite(v)]
                axes.plot([x for x, _ in points], [y for _, y in points], linestyle="", **style)
        axes.set_yticks(at, own)
        axes.set_ylim(bottom, 0)
        if plot.log:
            axes.set_xscale("log")
        axes.set_xlim(*limits(plot, tables if plot.shared else [table]))
        axes.set_title(table.title.replace("`", ""), loc="left")
        axes.grid(axis="x", color=AXES, alpha=0.25, linewidth=0.6)
        axes.tick_params(length=0)
        # A reader of a tall plot sees one panel at a time, so each names its axis.
        axes.set_xlabel(plot.axis)
    if any(pair for table in tables for pair in ends(plot, table)):
        quartiles = plot.low and any(table.has(plot.low) for table in tables)
        words_of = "quartiles" if quartiles else "± one standard deviation"
        found[-1].plot([], [], color=SCORE, alpha=0.4, linewidth=3.5, label=words_of)
    legend(figure, found)
    return figure


def places(words: Sequence[str]) -> list[float]:
    """Return the place of each line below the top, then the height of all. A wrapped label takes more."""
    found, height = [], 0.0
    for text in words:
        own = 1.0 + 0.7 * text.count("\n")
        found.append(height + own / 2)
        height += own
    return [*found, height]


def series(plot: Plot) -> list[tuple[str, dict[str, Any]]]:
    """Return the headings that a plot of marks shows, and the style of each.

    The mark of a control is a bar in the color of its score.
    """
    found = []
    pairs = ((plot.other, plot.other_control, OTHER, "s"), (plot.value, plot.control, SCORE, "o"))
    for head, blind, hue, marker in pairs:
        if head:
            # A hollow mark does not hide the mark of the other score, which may lie below it.
            face = "none" if head == plot.other else hue
            style = {"marker": marker, "markersize": 6, "color": hue, "markerfacecolor": face}
            found.append((head, {"label": name(head, plot), **style}))
        if blind:
            style = {"marker": "|", "markersize": 11, "markeredgewidth": 2.2, "color": hue}
            words = (
                f"blind control of {name(head, plot)}" if plot.other_control else "blind control"
            )
            found.append((blind, {"label": words, **style}))
    return found


def name(head: str, plot: Plot) -> str:
    """Return the words of a heading in the legend, without the unit if the axis states it."""
    if head == "dB":
        return "PSNR"
    return head.removesuffix(" dB") if plot.axis.endswith("dB") else head


def ends(plot: Plot, table: Table) -> list[tuple[float, float] | None]:
    """Return the spread of each line: quartiles, or one standard deviation to either side."""
    if plot.low and table.has(plot.low) and table.has(plot.high):
        pairs = zip(table.column(plot.low), table.column(plot.high), strict=True)
        return [None if a is None or b is None else (a, b) for a, b in pairs]
    if plot.deviation and table.has(plot.deviation):
        pairs = zip(table.column(plot.value), table.column(plot.deviation), strict=True)
        return [None if v is None or d is None else (v - d, v + d) for v, d in pairs]
    return [None] * len(table.lines)


def limits(plot: Plot, tables: Sequence[Table]) -> tuple[float, float]:
    """Return the ends of the axis of some panels."""
    heads = [plot.value, plot.control, plot.other, plot.other_control]
    columns = [table.column(head) for table in tables for head in heads if head and table.has(head)]
    found = [v for column in columns for v in column if v is not None and math.isfinite(v)]
    if plot.log:
        return min(v for v in found if v > 0) / 1.5, max(found) * 1.5
    found += [end for table in tables for pair in ends(plot, table) if pair for end in pair]
    low, high = min(found), max(found)
    margin = 0.05 * (high - low) or 1.0
    return (0.0 if low >= 0 else low - margin), high + margin


def label(plot: Plot, table: Table, line: Line) -> str:
    """Return the words beside a line's mark, wrapped to at most two lines."""
    count = plot.keys or len(line.keys)
    words = joined(table.heads[:count], line.keys[:count])
    return "\n".join(textwrap.wrap(words, 34, max_lines=2, placeholder=" …"))


def joined(heads: Sequence[str], keys: Sequence[str]) -> str:
    """Return the keys of a line in words. A number follows its heading."""
    found = []
    for head, key in zip(heads, keys, strict=True):
        number = key.replace(".", "").replace("e-", "").isdigit()
        found.append(f"{head} {key}" if number else key)
    return ", ".join(found).replace("\\|", "|").replace("`", "")


def curves(plot: Plot, tables: Sequence[Table]) -> Figure:
    """Return a figure with one curve for each value of the other keys. Each table is a panel."""
    figure, found = panels([CURVES] * len(tables))
    grouped = [groups(plot, table) for table in tables]
    # A name has one color in all panels.
    hues = dict(zip(dict.fromkeys(words for own in grouped for words in own), cycle(HUES)))
    for axes, table, own in zip(found, tables, grouped, strict=True):
        for words, lines in own.items():
            curve(axes, plot, table, words, lines, hues[words])
        axes.set_title(table.title.replace("`", ""), loc="left")
        axes.grid(color=AXES, alpha=0.25, linewidth=0.6)
        axes.set_ylabel(plot.axis)
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high + 0.05 * (high - min(0.0, low)))
        if plot.log:
            axes.set_xscale("log")
        at = table.heads.index(plot.across)
        ticks = sorted({float(line.keys[at]) for line in table.lines})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    if plot.control:
        found[-1].plot([], [], linestyle=":", color=AXES, label="dotted: blind control")
    found[-1].set_xlabel(plot.across)
    legend(figure, found)
    return figure


def groups(plot: Plot, table: Table) -> dict[str, list[Line]]:
    """Return the lines of each curve by its name."""
    at = table.heads.index(plot.across)
    heads = [head for j, head in enumerate(table.heads) if j != at]
    found: dict[str, list[Line]] = {}
    for line in table.lines:
        words = joined(heads, [key for j, key in enumerate(line.keys) if j != at])
        found.setdefault(words or name(plot.value, plot), []).append(line)
    return found


def curve(
    axes: Axes, plot: Plot, table: Table, words: str, lines: Sequence[Line], hue: str
) -> None:
    """Draw the scores of some lines, and their control dotted."""
    at = table.heads.index(plot.across)
    heads = [column.head for column in table.columns]
    for head, style in ((plot.value, "-"), (plot.control, ":")):
        if head in heads:
            numbers = [(float(line.keys[at]), line.numbers[heads.index(head)]) for line in lines]
            points = [(x, y) for x, y in numbers if y is not None]
            text = words if style == "-" else None
            marker = "o" if style == "-" else ""
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, linestyle=style, marker=marker, markersize=4, color=hue, label=text)


def legend(figure: Figure, panels_of: Sequence[Axes]) -> None:
    """Write what the marks are, above the panels, where a reader of a tall plot sees it first."""
    found: dict[str, Any] = {}
    for axes in panels_of:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    if len(found) > 1:
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=2)
