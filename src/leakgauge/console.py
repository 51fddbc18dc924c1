"""The output of the command in a terminal before, during and after a run."""

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
from torch import nn

from leakgauge.audit import Plan, Run, execute
from leakgauge.audit.failures import FOLDER as FAILURES
from leakgauge.core.errors import LONGEST
from leakgauge.core.lines import one_line
from leakgauge.models.modes import describe_eval_mode
from leakgauge.report.wording import beyond, plural
from leakgauge.streams import printing
from leakgauge.summary import prices, refusals, tables

SHOWN = 5
"""Number of failures, and of reasons why attacks could not run, that are printed one by one."""


def announce(console: Console, plan: Plan, workers: int, out: str) -> None:
    """Print the size of the run, its estimated duration, and its folder."""
    seconds = max(1.0, plan.total / workers)
    about = rounded(seconds)
    trainings = f" and {plural(len(plan.trainings), 'training')}" if plan.trainings else ""
    each = "beside its blind control" if len(plan.cells) == 1 else "each beside its blind control"
    console.print(
        f"{plural(len(plan.cells), 'audit')}, {each},{trainings} in {workers} "
        f"process{'es' if workers > 1 else ''}: about {about} on an idle machine. "
        "Ctrl-C keeps what is finished.",
        highlight=False,
    )
    if plan.unknown:
        console.print(
            f"The time of {plan.unknown} of them could not be measured and is not included.",
            highlight=False,
        )
    if plan.source is not None:
        tell_modes(console, plan)
    tell_path(console, "Writing to", out)


def tell_modes(console: Console, plan: Plan) -> None:
    """Print one line for each model of a specification that runs in eval mode, if the mode changes anything."""
    for case in {id(cell.case): cell.case for cell in plan.cells}.values():
        name = case.model_name or type(case.model).__name__
        tell_mode(console, name, case.model, "set model.train = true")


def tell_mode(console: Console, name: str, model: nn.Module, remedy: str) -> None:
    """Print one line if a model runs in eval mode and the mode changes something."""
    line = describe_eval_mode(name, model, remedy)
    if line is not None:
        console.print(one_line(line, LONGEST), highlight=False, markup=False, soft_wrap=True)


UNITS = (("s", 1.0, 90.0), ("min", 60.0, 90.0), ("h", 3600.0, 48.0), ("days", 86400.0, 700.0))
"""Units of time: name, length in seconds, and the number of units from which the next larger unit is used."""


def rounded(seconds: float) -> str:
    """Return a duration, given in seconds, with a fitting unit: `20 s`, `40 min`, `3 days`, `2 years`."""
    for unit, size, most in UNITS:
        if seconds < most * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / (365.25 * 86400):,.0f} years"


def watch(console: Console, plan: Plan, *, out: str, workers: int, command: str) -> Run:
    """Run the plan and show a progress bar."""
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

        def advance(fraction: float, done: int) -> None:
            bar.update(task, completed=fraction, cells=f"{done}/{len(plan.jobs)}")

        return execute(plan, out=out, workers=workers, watch=advance, command=command)


def conclude(console: Console, run: Run, page: Path, *, as_json: bool) -> None:
    """Print the tables or the records, the failures, and the path of the report."""
    try:
        with printing():
            show_results(run, page, as_json=as_json)
    # The run is complete even if standard output is full or closed.
    finally:
        tell_failures(console, run)
        if run.interrupted:
            done = len(run.cells) + len(run.trainings)
            kept = f"Interrupted. Kept: {plural(done, 'record')}."
            console.print(kept, highlight=False)
        tell_path(console, "Report:", page)


class Output(Console):
    """Standard output that raises BrokenPipeError for a closed pipe. The class of rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise


def show_results(run: Run, page: Path, *, as_json: bool) -> None:
    """Print the records to standard output, as JSON or as tables."""
    if as_json:
        records = [record.model_dump(mode="json") for record in run.records]
        print(json.dumps({"report": str(page), "records": records}, indent=1))
        return
    shown = Output()
    for table in (*tables(run.cells), *prices(run.records)):
        shown.print(table)
    lines = list(refusals(run.cells))
    for line in lines[:SHOWN]:
        shown.print(line, highlight=False, markup=False)
    if len(lines) > SHOWN:
        shown.print(f"{len(lines) - SHOWN} more reasons are in the report.", highlight=False)
    side = beyond(cell.data.headline for cell in run.cells)
    shown.print(
        "Scores are medians over the examples of a batch. blind is the blind control: the same attack on an update of"
        f" other data. Only a score {side} it shows leakage.",
        style="dim",
    )


def tell_failures(console: Console, run: Run) -> None:
    """Print the failures and the folder of their tracebacks. Only the first SHOWN failures get a line."""
    if not run.failures:
        return
    console.print(f"{len(run.failures)} failed. The others are not affected:", highlight=False)
    for record in run.failures[:SHOWN]:
        failure = record.failure
        assert failure is not None  # `Run.failures` holds only records with a failure.
        text = "  " + one_line(f"{record.id}: the {failure.step} failed: {failure.reason}", LONGEST)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if len(run.failures) > SHOWN:
        console.print(f"  and {len(run.failures) - SHOWN} more", highlight=False)
    if run.folder is not None:
        folder = run.folder / FAILURES
        tell_path(console, "Tracebacks:", folder)


def tell_path(console: Console, what: str, path: str | Path) -> None:
    """Print some words and a path in one line. Brackets in a path are no markup."""
    text = one_line(f"{what} {path}", LONGEST)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
