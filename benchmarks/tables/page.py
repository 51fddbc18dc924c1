"""One page: its words, tables and plot, written in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tables import figures
from tables.documents import Document
from tables.plans import planned
from tables.table import Table


@dataclass(frozen=True)
class Plot:
    """What a plot shows of a page's tables.

    Args:
        value: The heading of the score.
        control: The heading of the blind control, or "".
        other: The heading of a second score, for example of the naive adversary, or "".
        other_control: The heading of the second score's blind control, or "".
        deviation: The heading of the standard deviation, if there are no quartiles.
        low: The heading of the lower end of the spread, or "".
        high: The heading of the upper end of the spread, or "".
        axis: What the axis says.
        tables: Which tables it shows, from 0. None shows all.
        keys: How many of a line's keys name it. 0 takes all.
        across: The key on the horizontal axis. "" draws a line of marks for each line of a table.
        log: Whether the horizontal axis is logarithmic.
        shared: Whether all panels have the same axis.
        alt: What the picture shows, in one sentence.
    """

    value: str = "dB"
    control: str = "control dB"
    other: str = ""
    other_control: str = ""
    deviation: str = "SD"
    low: str = "Q1"
    high: str = "Q3"
    axis: str = "PSNR, dB"
    tables: tuple[int, ...] | None = None
    keys: int = 0
    across: str = ""
    log: bool = False
    shared: bool = True
    alt: str = "Score of each setting, with the blind control beside it"


@dataclass(frozen=True)
class Page:
    """The words of one page, and how its tables are made.

    Args:
        title: The heading of the page.
        asks: The question, in one sentence.
        short: The question in under 80 characters, for the index.
        theme: The heading of the index under which it stands.
        done: What was done: network, data and control, in one or two sentences.
        tables: Makes the tables.
        notes: How to read the page. One bullet each.
        plot: The plot, or None if the page has none.
        takes: How long the run takes, or "" if the seconds of its rows say so.
        command: What is added to the command line.
        figures: Further pictures, in Markdown.
    """

    title: str
    asks: str
    short: str
    theme: str
    done: str
    tables: Callable[[Document], list[Table]]
    notes: Sequence[str] = ()
    plot: Plot | None = None
    takes: str = ""
    command: str = ""
    figures: Sequence[str] = ()


def time_of(page: Page, document: Document) -> str:
    """Return about how long a run takes, in words."""
    if page.takes:
        return page.takes
    spent = figures.spent(document.rows)
    return f"{spent / 60:.0f} min" if spent >= 90 else f"{spent:.0f} s"


def state_of(document: Document) -> str:
    """Return "complete", or after how many rows the run was cut."""
    if document.complete:
        return "complete"
    whole = document.head.get("planned") or planned(document.benchmark)
    return f"cut after {len(document.rows)} of {whole} rows"


def badges(document: Document) -> str:
    """Return the line that says how and when the results came to be."""
    head, versions = document.head, document.head["versions"]
    several = "commits" if len(document.commits) > 1 else "commit"
    parts = [
        f"**{state_of(document)}**",
        *(["**quick: these numbers are no results**"] if document.quick else []),
        *([f"{len(document.rows)} rows"] if document.complete else []),
        f"{several} `{' '.join(document.commits)}`",
        head["finished"][:10],
        *(f"{name} {versions[name]}" for name in ("leakgauge", "torch", "numpy", "python")),
        f"seed {head['seed']}",
    ]
    return " · ".join(parts)


def legend(tables: Sequence[Table]) -> list[str]:
    """Return one bullet for each heading that needs a word."""
    found: dict[str, str] = {}
    for column in (column for table in tables for column in table.columns):
        known = found.setdefault(column.head, column.about)
        assert known == column.about, f"{column.head!r} is both {known!r} and {column.about!r}"
    return [f"- **{head}**: {about}." for head, about in found.items() if about]


def drawn(page: Page, document: Document) -> list[Table]:
    """Return the tables of a page. Those without lines are left out."""
    return [table for table in page.tables(document) if table.lines]


def written(page: Page, document: Document) -> str:
    """Return the whole page in Markdown."""
    tables = drawn(page, document)
    several = len(document.commits) > 1
    quick = " --quick" if document.quick else ""
    about = time_of(page, document)
    parts = [
        f"# {page.title}" + (" (quick run)" if document.quick else ""),
        page.asks,
        page.done,
        f"```sh\npython benchmarks/{document.benchmark}.py{quick}{page.command}\n```",
        f"Time: {about}. Data: {document.head['data']}.",
        badges(document),
    ]
    parts += page.figures
    if page.plot is not None:
        parts.append(f"![{page.plot.alt}]({document.name}.svg)")
    if page.notes:
        parts.append("## How to read it\n\n" + "\n".join(f"- {note}" for note in page.notes))
    words = [
        *legend(tables),
        *(["- **commit**: the commits that measured the line."] if several else []),
    ]
    # A reader meets the words before the tables that use them.
    parts.append("## Columns\n\n" + "\n".join(words))
    for table in tables:
        parts.append(f"## {table.title}\n\n{table.markdown(with_commits=several)}")
    return "\n\n".join(parts) + "\n"
