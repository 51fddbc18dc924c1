"""The command: `leakgauge audit` and `leakgauge list`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from leakgauge import report
from leakgauge.audit import (
    Plan,
    Run,
    Source,
    available_cores,
    check_folder,
    execute,
    plan_from,
    read,
)
from leakgauge.catalog import CATALOG, lines
from leakgauge.core import LeakGaugeError, SpecificationError, UserError
from leakgauge.summary import tables

USER_MISTAKE, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """argparse that tells a mistake in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        raise SpecificationError(
            "command line",
            expected=self.format_usage().removeprefix("usage: ").strip(),
            found=message,
            remedy="see --help",
        )


def parser() -> Parser:
    """The command line of `leakgauge`."""
    top = Parser(
        prog="leakgauge",
        description="Measure how much private training data leaks from shared gradients and updates. "
        "Audit only models and data that you may.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{audit,list}")
    audit = commands.add_parser("audit", help="run an audit and write its report")
    audit.add_argument("spec", nargs="?", metavar="SPEC.toml", help="left out: the default audit")
    audit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="settings",
        help="override the specification, in every case; may be given several times",
    )
    audit.add_argument(
        "--out", metavar="DIR", help="folder of the run (default: leakgauge-runs/TIME)"
    )
    audit.add_argument("--seed", type=int, help="root seed (default: the specification's)")
    audit.add_argument("--json", action="store_true", help="print the records instead of a table")
    audit.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        help="worker processes (default: one for each core)",
    )
    listing = commands.add_parser("list", help="what can be named in a specification")
    listing.add_argument("what", choices=sorted(CATALOG))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser().parse_args(given)
        if options.command == "list":
            print("\n".join(lines(options.what)))
            return 0
        return run_audit(options, "leakgauge " + shlex.join(given))
    except UserError as error:
        print(f"leakgauge: {error}", file=sys.stderr)
        return USER_MISTAKE
    except LeakGaugeError as error:
        print(f"leakgauge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("leakgauge: interrupted before the first cell was done", file=sys.stderr)
        return INTERRUPTED


def run_audit(options: argparse.Namespace, command: str) -> int:
    """Plan, say what it will cost, run, report."""
    console = Console(stderr=True)
    if options.workers < 1:
        raise SpecificationError(
            "--workers", expected="at least 1", found=str(options.workers), remedy="raise it"
        )
    # A user's own `module:factory` lies where the command is run, as with `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    source = Source(read(options.spec), tuple(options.settings), options.seed)
    out = options.out or f"leakgauge-runs/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    check_folder(out)
    plan = plan_from(source)
    workers = min(options.workers, len(plan.cells))
    announce(console, plan, workers, out)
    run = watch(console, plan, out=out, workers=workers, command=command)
    page = report.write(Path(out))
    conclude(console, run, page, as_json=options.json)
    return INTERRUPTED if run.interrupted else 0


def announce(console: Console, plan: Plan, workers: int, out: str) -> None:
    """What will be run, and about how long it takes, before it starts."""
    seconds = max(1.0, plan.total / workers)
    about = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    console.print(
        f"{len(plan.cells)} audits, each beside its blind control, in {workers} "
        f"process{'es' if workers > 1 else ''}: about {about} if nothing else runs here. "
        "Ctrl-C keeps what is done.",
        highlight=False,
    )
    console.print(f"Writing to {out}", highlight=False, soft_wrap=True)


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
        task = bar.add_task("auditing", total=1.0, cells=f"0/{len(plan.cells)}")

        def told(share: float, done: int) -> None:
            bar.update(task, completed=share, cells=f"{done}/{len(plan.cells)}")

        return execute(plan, out=out, workers=workers, watch=told, command=command)


def conclude(console: Console, run: Run, page: Path, *, as_json: bool) -> None:
    """The table, or the records; and where the report lies."""
    if as_json:
        print(json.dumps({"report": str(page), "records": run.records}, indent=1))
    else:
        shown = Console()
        for table in tables(run.cells):
            shown.print(table)
        shown.print(
            "Medians over the examples of a batch. blind: the same attack on an update of other data;"
            " leakage is what stands above it.",
            style="dim",
        )
    if run.interrupted:
        console.print(f"Interrupted: {len(run.cells)} finished audits were kept.", highlight=False)
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
