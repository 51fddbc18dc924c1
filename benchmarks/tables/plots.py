"""Plots of tables as SVG, legible on a light and on a dark page."""

from __future__ import annotations

import io
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
WIDTH, ROW = 5.2, 0.2
"""Inches: the width of a plot, and the height of one line."""
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
    shown = [table for table in shown if table.has(plot.value)]
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
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights))
    return figure, [axes for (axes,) in grid]


def marks(plot: Plot, tables: Sequence[Table]) -> Figure:
    """Return one mark for each line, with its control beside it. Each table is a panel."""
    figure, found = panels([0.55 + ROW * len(table.lines) for table in tables])
    left, right = limits(plot, tables)
    for axes, table in zip(found, tables, strict=True):
        places = range(len(table.lines))
        spread(axes, plot, table)
        for head, style in series(plot):
            if table.has(head):
                points = [
                    (v, y) for v, y in zip(table.column(head), places, strict=True) if v is not None
                ]
                axes.plot([x for x, _ in points], [y for _, y in points], linestyle="", **style)
        axes.set_yticks(list(places), [label(line) for line in table.lines])
        axes.set_ylim(len(table.lines) - 0.5, -0.5)
        axes.set_xlim(left, right)
        axes.set_title(table.title, loc="left")
        axes.grid(axis="x", color=AXES, alpha=0.25, linewidth=0.6)
        axes.tick_params(length=0)
        if plot.log:
            axes.set_xscale("log")
    found[-1].set_xlabel(plot.axis)
    legend(figure, found[0])
    return figure


def series(plot: Plot) -> list[tuple[str, dict[str, Any]]]:
    """Return the headings that a plot of marks shows, and how each is drawn."""
    named = [
        (plot.control, {"marker": "|", "color": AXES, "markersize": 9, "markeredgewidth": 2}),
        (plot.other, {"marker": "s", "color": OTHER, "markersize": 5}),
        (plot.value, {"marker": "o", "color": SCORE, "markersize": 6}),
    ]
    return [(head, {"label": head, **style}) for head, style in named if head]


def spread(axes: Axes, plot: Plot, table: Table) -> None:
    """Draw the spread of each line."""
    if not (plot.low and table.has(plot.low) and table.has(plot.high)):
        return
    pairs = zip(table.column(plot.low), table.column(plot.high), strict=True)
    for y, (low, high) in enumerate(pairs):
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=SCORE, alpha=0.45, linewidth=3.5)


def limits(plot: Plot, tables: Sequence[Table]) -> tuple[float, float]:
    """Return the ends of the axis that all panels share."""
    heads = [head for head in (plot.value, plot.control, plot.other, plot.low, plot.high) if head]
    found = [
        v for t in tables for head in heads if t.has(head) for v in t.column(head) if v is not None
    ]
    if plot.log:
        return min(v for v in found if v > 0) / 1.5, max(found) * 1.5
    low, high = min(found), max(found)
    margin = 0.05 * (high - low) or 1.0
    return (0.0 if low >= 0 else low - margin), high + margin


def label(line: Line) -> str:
    """Return the words of a line, as they stand beside its mark."""
    words = ", ".join(key for key in line.keys if key).replace("\\|", "|").replace("`", "")
    return words if len(words) <= 44 else words[:43] + "…"


def curves(plot: Plot, tables: Sequence[Table]) -> Figure:
    """Return one curve for each value of the other keys. Each table is a panel."""
    figure, found = panels([2.3] * len(tables))
    for axes, table in zip(found, tables, strict=True):
        at = table.heads.index(plot.across)
        groups: dict[str, list[int]] = {}
        for i, line in enumerate(table.lines):
            others = [key for j, key in enumerate(line.keys) if j != at]
            groups.setdefault(", ".join(others) or plot.value, []).append(i)
        for hue, (name, places) in zip(cycle(HUES), groups.items(), strict=False):
            curve(axes, plot, table, (name, at, places), hue)
        axes.set_title(table.title, loc="left")
        axes.grid(color=AXES, alpha=0.25, linewidth=0.6)
        axes.set_ylabel(plot.axis)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if plot.log:
            axes.set_xscale("log")
    found[-1].set_xlabel(plot.across)
    legend(figure, found[0])
    return figure


def curve(
    axes: Axes, plot: Plot, table: Table, group: tuple[str, int, Sequence[int]], hue: str
) -> None:
    """Draw the scores of one group of lines, and its control dashed."""
    name, at, places = group
    xs = [float(table.lines[i].keys[at]) for i in places]
    for head, style, text in ((plot.value, "-", name), (plot.control, ":", f"{name}, control")):
        if head and table.has(head):
            column = table.column(head)
            points = [
                (x, v) for x, i in zip(xs, places, strict=True) if (v := column[i]) is not None
            ]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                linestyle=style,
                marker="o" if style == "-" else "",
                markersize=4,
                color=hue,
                label=text if style == "-" else None,
            )
    if plot.control:
        axes.plot(
            [], [], linestyle=":", color=AXES, label="control (dotted)" if hue == HUES[0] else None
        )


def legend(figure: Figure, axes: Axes) -> None:
    """Write what the marks are, below the plot."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside lower left", ncols=2 if len(labels) > 3 else len(labels)
        )
