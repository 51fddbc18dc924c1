"""What the command shows in a terminal: before a run, during it, and after it."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from leakgauge.audit import Plan, Run, execute
from leakgauge.audit.failures import FOLDER as FAILURES
from leakgauge.core.errors import LONGEST
from leakgauge.core.lines import one_line
from leakgauge.report.wording import beyond, plural
from leakgauge.streams import printing
from leakgauge.summary import prices, tables

SHOWN = 5
"""Failures that are told one by one."""


def announce(console: Console, plan: Plan, workers: int, out: str) -> None:
    """What will be run, and about how long it takes, before it starts."""
    seconds = max(1.0, plan.total / workers)
    about = rounded(seconds)
    trainings = f" and {plural(len(plan.trainings), 'training')}" if plan.trainings else ""
    each = "beside its blind control" if len(plan.cells) == 1 else "each beside its blind control"
    console.print(
        f"{plural(len(plan.cells), 'audit')}, {each},{trainings} in {workers} "
        f"process{'es' if workers > 1 else ''}: about {about} if nothing else runs here. "
        "Ctrl-C keeps what is done.",
        highlight=False,
    )
    if plan.unknown:
        console.print(
            f"The cost of {plan.unknown} of them could not be measured and is not in that time.",
            highlight=False,
        )
    tell_path(console, "Writing to", out)


UNITS = (("s", 1.0, 90.0), ("min", 60.0, 90.0), ("h", 3600.0, 48.0), ("days", 86400.0, 700.0))
"""Units of time: their seconds, and how many of them are told before the next larger one is better."""


def rounded(seconds: float) -> str:
    """Return a time as a reader can grasp it: `20 s`, `40 min`, `3 days`, `2 years`."""
    for unit, size, most in UNITS:
        if seconds < most * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / (365.25 * 86400):,.0f} years"


def watch(console: Console, plan: Plan, *, out: str, workers: int, command: str) -> Run:
    """Run the plan under a live progress bar."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[cells]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("auditing", total=1.0, cells=f"0/{len(plan.jobs)}")

        def told(fraction: float, done: int) -> None:
            bar.update(task, completed=fraction, cells=f"{done}/{len(plan.jobs)}")

        return execute(plan, out=out, workers=workers, watch=told, command=command)


def conclude(console: Console, run: Run, page: Path, *, as_json: bool) -> None:
    """The table, or the records; and where the report lies."""
    try:
        with printing():
            show_results(run, page, as_json=as_json)
    # Where standard output is full or closed, the run is whole all the same.
    finally:
        tell_failures(console, run)
        if run.interrupted:
            done = len(run.cells) + len(run.trainings)
            told = f"Interrupted: what was finished, {plural(done, 'record')}, was kept."
            console.print(told, highlight=False)
        tell_path(console, "Report:", page)


class Output(Console):
    """Standard output. A reader who leaves is told by BrokenPipeError, not by rich's own exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise


def show_results(run: Run, page: Path, *, as_json: bool) -> None:
    """Print the records as JSON, or tables of them, to standard output."""
    if as_json:
        told = [record.model_dump(mode="json") for record in run.records]
        print(json.dumps({"report": str(page), "records": told}, indent=1))
        return
    shown = Output()
    for table in (*tables(run.cells), *prices(run.records)):
        shown.print(table)
    side = beyond(cell.data.headline for cell in run.cells)
    shown.print(
        "Medians over the examples of a batch. blind: the same attack on an update of other data;"
        f" leakage is what stands {side} it.",
        style="dim",
    )


def tell_failures(console: Console, run: Run) -> None:
    """Say what failed, and where the tracebacks lie. The first SHOWN failures are told one by one."""
    if not run.failures:
        return
    console.print(f"{len(run.failures)} failed; the others are not affected:", highlight=False)
    for record in run.failures[:SHOWN]:
        failure = record.failure
        assert failure is not None  # it is among the failures
        text = "  " + one_line(f"{record.id}: the {failure.step} failed: {failure.reason}", LONGEST)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if len(run.failures) > SHOWN:
        console.print(f"  and {len(run.failures) - SHOWN} more", highlight=False)
    if run.folder is not None:
        folder = run.folder / FAILURES
        tell_path(console, "Tracebacks:", folder)


def tell_path(console: Console, what: str, path: str | Path) -> None:
    """Print where something lies. A path is shown as it is: brackets in it are no markup."""
    text = one_line(f"{what} {path}", LONGEST)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
