"""The tables that an audit prints: medians, never means, beside the blind control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from leakgauge import report
from leakgauge.core.lines import one_line
from leakgauge.report import wording

Cell = Mapping[str, Any]
LONGEST = 300
"""Most characters of a text in a table."""


def tables(cells: Sequence[Cell]) -> Iterator[Table]:
    """One table for each case: what the adversary read, and what the same attack reads blind."""
    for case, members in groupby(cells, key=lambda cell: str(cell["case"])):
        yield table(case, list(members))


def table(case: str, cells: Sequence[Cell]) -> Table:
    """One row for each cell of a case, narrow enough for 80 columns."""
    shown = Table(
        title=shown_text(f"{case} (B: batch size)", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("B", justify="right")
    for heading in ("defense", "attack"):
        shown.add_column(heading, overflow="fold")
    for heading in (unit(cells), "blind", "labels"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("status", no_wrap=True)
    for cell in cells:
        shown.add_row(*map(shown_text, row(cell)))
    return shown


def prices(records: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """One table for each case whose utility was measured: what each setting leaves to read, and costs."""
    for frontier in report.frontiers(report.parse(records)):
        shown = Table(
            title=shown_text(f"{frontier.case}: what safety costs", style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        shown.add_column("defense", overflow="fold")
        for heading in ("above control", "accuracy", "lost", "bytes", "epsilon"):
            shown.add_column(heading, justify="right", no_wrap=True)
        shown.add_column("dominated", no_wrap=True)
        for setting in frontier.settings:
            shown.add_row(*map(shown_text, price(setting)))
        yield shown


def shown_text(text: str, style: str = "") -> Text:
    """Return text of a record as it is, without markup in brackets, and without control characters."""
    return Text(one_line(text, LONGEST), style=style)


def price(setting: report.Setting) -> list[str]:
    """The texts of one row: leakage of the worst attack, and what the setting costs a round."""
    worst = setting.worst
    above = "-"
    if worst is not None:
        value = wording.percent if worst.kind == "table" else wording.decibels
        above = value(setting.above) + (" leaked" if setting.leaked else "")
    strength = "" if setting.strength is None else f" {wording.plain(setting.strength)}"
    return [
        setting.defense + strength,
        above,
        wording.rate(setting.accuracy),
        "-" if setting.undefended else wording.lost(setting.loss),
        wording.size(setting.bytes_a_round),
        "-" if setting.epsilon is None else wording.plain(setting.epsilon),
        "yes" if setting.dominated_by else "",
    ]


def unit(cells: Sequence[Cell]) -> str:
    """What the leakage column counts."""
    return "columns" if cells[0]["data"]["kind"] == "table" else "PSNR"


def row(cell: Cell) -> list[str]:
    """The texts of one row; an attack that could not run, or failed, shows dashes."""
    strength = cell["defense"]["strength"]
    defense = cell["defense"]["name"] + (f" {strength}" if strength is not None else "")
    start = [str(cell["batch_size"]), defense, cell["attack"]["name"]]
    if cell["scores"] is None:
        return [*start, "-", "-", "-", cell["status"]]
    scores, control = cell["scores"], cell["control"]["scores"]
    label = scores["label"]
    status = cell["status"] if control else f"{cell['status']}, no control"
    return [
        *start,
        leakage(scores),
        leakage(control) if control else "-",
        "-" if label is None else f"{sum(label):.0f}/{len(label)}",
        status,
    ]


def leakage(scores: Mapping[str, Any]) -> str:
    """The score that a reader asks for: columns read of a table, decibels of anything else."""
    if "columns_read" in scores:
        return f"{100 * median(scores['columns_read']):.0f}%"
    return f"{median(scores['psnr']):.1f}"
