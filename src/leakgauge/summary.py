"""The tables that an audit prints: median scores beside those of the blind control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from leakgauge import report
from leakgauge.core.lines import one_line
from leakgauge.records import Cell, Headline, Record
from leakgauge.report import wording
from leakgauge.report.formats import FORMATS
from leakgauge.report.variants import distinguish

LONGEST = 300
"""Most characters of a text in a table."""


def tables(cells: Sequence[Cell]) -> Iterator[Table]:
    """Yield one table for each case: scores of the attacks beside those of the blind control."""
    for case, members in groupby(distinguish(cells), key=lambda cell: cell.case):
        yield table(case, list(members))


def table(case: str, cells: Sequence[Cell]) -> Table:
    """Return a table with one row for each cell of a case. It fits into 80 columns."""
    shown = Table(
        title=shown_text(f"{case} (B: batch size)", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("B", justify="right")
    for heading in ("defense", "attack"):
        shown.add_column(heading, overflow="fold")
    for heading in (cells[0].data.headline.heading, "blind", "labels"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("status", no_wrap=True)
    for cell in cells:
        shown.add_row(*map(shown_text, row(cell)))
    return shown


def refusals(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield one line for each reason why attacks could not run, with the audits that it holds for."""
    several = len({cell.case for cell in cells}) > 1
    reasons: dict[tuple[str, str], list[Cell]] = {}
    for cell in distinguish(cells):
        if cell.inapplicable:
            reasons.setdefault((cell.attack.name, cell.message), []).append(cell)
    for (attack, reason), members in reasons.items():
        sizes = sorted({cell.batch_size for cell in members})
        batches = f"B {', '.join(map(str, sizes))}"
        named = dict.fromkeys(cell.case for cell in members) if several else ()
        places = ", ".join((*named, attack, batches))
        yield one_line(f"{places}, inapplicable: {reason}", LONGEST)


def prices(records: Sequence[Record]) -> Iterator[Table]:
    """Yield one table for each case with measured utility: leakage and cost of each defense."""
    for frontier in report.frontiers(report.parse(records)):
        shown = Table(
            title=shown_text(f"{frontier.case}: what safety costs", style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        shown.add_column("defense", overflow="fold")
        side = wording.beyond([frontier.headline] if frontier.headline else [])
        for heading in (f"{side} control", "accuracy", "change", "bytes", "epsilon"):
            shown.add_column(heading, justify="right", no_wrap=True)
        shown.add_column("dominated", no_wrap=True)
        for setting in frontier.settings:
            shown.add_row(*map(shown_text, price(setting)))
        yield shown


def shown_text(text: str, style: str = "") -> Text:
    """Return a text of a record for a table, without control characters. Brackets in it are no markup."""
    return Text(one_line(text, LONGEST), style=style)


def price(setting: report.Setting) -> list[str]:
    """Return the texts of one row: the leakage of the strongest attack, and the costs of the defense."""
    worst = setting.worst
    above = "-"
    if worst is not None:
        above = FORMATS[worst.headline.format].text(setting.above)
        above += " leaked" if setting.leaked else ""
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


def row(cell: Cell) -> list[str]:
    """Return the texts of one row. Scores are dashes if the attack could not run or failed."""
    defense, headline = cell.defense, cell.data.headline
    strength = f" {defense.strength_text}" if defense.strength_text is not None else ""
    start = [str(cell.batch_size), defense.name + strength, cell.attack.name]
    if not cell.ran:
        return [*start, "-", "-", "-", cell.status]
    labels = [value for value in cell.scores.get("label", ()) if value is not None]
    blind = cell.control.scores if cell.control else {}
    return [
        *start,
        leakage(cell.scores, headline),
        leakage(blind, headline),
        f"{sum(labels):.0f}/{len(labels)}" if labels else "-",
        cell.status if blind else f"{cell.status}, no control",
    ]


def leakage(scores: Mapping[str, Sequence[float | None]], headline: Headline) -> str:
    """Return the median of the headline score, or a dash if there is no score."""
    values = [value for value in scores.get(headline.metric, ()) if value is not None]
    if not values:
        return "-"
    return FORMATS[headline.format].short(median(values))
