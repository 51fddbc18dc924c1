"""The command: `leakgauge audit`, `leakgauge recommend` and `leakgauge list`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from leakgauge import report
from leakgauge.audit import (
    Run,
    Source,
    available_cores,
    check_folder,
    parse,
    plan_from,
    read,
)
from leakgauge.audit.grid import MOST_CELLS
from leakgauge.audit.signals import code_of, stoppable
from leakgauge.catalog import CATALOG, lines
from leakgauge.console import announce, conclude, tell_failures, tell_path, watch
from leakgauge.core import (
    LeakGaugeError,
    OutputError,
    OutputLost,
    SpecificationError,
    UserError,
)
from leakgauge.core.errors import LONGEST
from leakgauge.core.lines import one_line
from leakgauge.streams import prepare_streams, printing, silence, unprintable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

FAILED, USER_MISTAKE = 1, 2


class Parser(argparse.ArgumentParser):
    """argparse that tells a mistake in one line, as every other mistake is told."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        # argparse's own is silent where the stream cannot be written to.
        (file or sys.stdout).write(self.format_help())

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
        epilog="Exit codes: 0 done, 1 an audit failed (the others are recorded), 2 refused before anything ran, "
        "130 Ctrl-C, 143 SIGTERM.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{audit,recommend,list}")
    audit = commands.add_parser("audit", help="run an audit and write its report")
    audit.add_argument("spec", nargs="?", metavar="SPEC.toml", help="left out: the default audit")
    running(audit)
    audit.add_argument("--json", action="store_true", help="print the records instead of a table")
    advice = commands.add_parser(
        "recommend", help="the cheapest setting of a defense that stops what was read"
    )
    advice.add_argument(
        "source",
        metavar="RUN_DIR|SPEC.toml",
        help="the folder of an audit with utility, or a specification to audit first",
    )
    advice.add_argument(
        "--loss",
        type=float,
        default=report.LOSS,
        metavar="SHARE",
        help=f"test accuracy that may be lost, in [0, 1] (default: {report.LOSS:g})",
    )
    running(advice)
    advice.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    listing = commands.add_parser("list", help="what can be named in a specification")
    listing.add_argument("what", choices=sorted(CATALOG))
    return top


def running(command: argparse.ArgumentParser) -> None:
    """Options of whatever runs an audit."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="settings",
        help="override the specification, in every case; may be given several times",
    )
    command.add_argument(
        "--out", metavar="DIR", help="folder of the run (default: leakgauge-runs/TIME)"
    )
    command.add_argument("--seed", type=int, help="root seed (default: the specification's)")
    command.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        help="worker processes (default: one for each core)",
    )
    command.add_argument(
        "--max-cells",
        type=int,
        default=MOST_CELLS,
        metavar="N",
        help=f"audits and trainings that may be planned (default: {MOST_CELLS})",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    0: all was done. 1: an audit or a training failed; the others are done and recorded. 2: the input was refused
    before anything ran. 130: Ctrl-C. 143: SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    closed = prepare_streams()
    try:
        with stoppable():
            code = run(given)
        if closed:
            raise unprintable("it is closed")
        return code
    except OutputLost as error:
        print(f"leakgauge: {one_line(str(error), 4 * LONGEST)}", file=sys.stderr)
        return FAILED
    except UserError as error:
        print(f"leakgauge: {one_line(str(error), 4 * LONGEST)}", file=sys.stderr)
        return USER_MISTAKE
    except LeakGaugeError as error:
        print(f"leakgauge: {one_line(str(error), 4 * LONGEST)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stop:
        (told,) = getattr(stop, "__notes__", ["Nothing was recorded."])
        print(f"leakgauge: interrupted. {told}", file=sys.stderr)
        return code_of(stop)
    except BrokenPipeError:
        # Whoever read the output wants no more of it, as `head` does. The run and its report are on disk.
        silence()
        return 0


def run(given: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    with printing():
        options = parser().parse_args(given)
    if options.command == "list":
        with printing():
            print("\n".join(lines(options.what)))
        return 0
    command = "leakgauge " + shlex.join(given)
    if options.command == "recommend":
        return run_recommend(options, command)
    console = Console(stderr=True)
    done, page = run_audit(console, options, options.spec, command)
    conclude(console, done, page, as_json=options.json)
    return exit_code(done)


def exit_code(run: Run) -> int:
    """Return the exit code that tells how a run ended."""
    if run.interrupted:
        return run.code
    return FAILED if run.failures else 0


def run_audit(
    console: Console,
    options: argparse.Namespace,
    spec: str | None,
    command: str,
    *,
    loss: float | None = None,
) -> tuple[Run, Path]:
    """Plan, say what it will cost, run, report. A `loss` to recommend within needs utility measured."""
    for name, value in (("--workers", options.workers), ("--max-cells", options.max_cells)):
        if value < 1:
            raise SpecificationError(
                name, expected="at least 1", found=str(value), remedy="raise it"
            )
    # A user's own `module:factory` lies where the command is run, as with `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    source = Source(read(spec), tuple(options.settings), options.seed)
    if loss is not None and all(case.utility is None for case in parse(source).cases):
        raise SpecificationError(
            f"specification {str(spec)!r}",
            expected="a case with a section utility, to know what defenses cost",
            found="none",
            remedy="add utility = {} or --set utility={}",
        )
    out = options.out or f"leakgauge-runs/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    check_folder(out)
    plan = plan_from(source, max_cells=options.max_cells)
    workers = min(options.workers, len(plan.jobs))
    announce(console, plan, workers, out)
    run = watch(console, plan, out=out, workers=workers, command=command)
    return run, drawn(out, report.LOSS if loss is None else loss)


def drawn(out: str, loss: float) -> Path:
    """Return the path of the report of a run that has just ended. What keeps it from being drawn loses no record."""
    try:
        return report.write(out, loss)
    except KeyboardInterrupt as stop:
        stop.add_note(f"The records are whole, in {out}. The report was not drawn.")
        raise
    except OutputError as error:
        raise OutputLost(
            f"output folder {out!r}",
            expected="room for the report",
            found=error.found,
            remedy="free space, then draw it by leakgauge.write_report: the records are whole",
        ) from error


def run_recommend(options: argparse.Namespace, command: str) -> int:
    """Recommend from the records of a run, or of an audit that is run first."""
    if not 0 <= options.loss <= 1:
        raise SpecificationError(
            "--loss",
            expected="a share of accuracy in [0, 1]",
            found=str(options.loss),
            remedy="write 0.02 for two points of a hundred",
        )
    # Not by Path: that raises for a name that is too long.
    if not os.path.exists(options.source):
        raise SpecificationError(
            f"recommend {options.source!r}",
            expected="the folder of a run, or a specification",
            found="no such file or folder",
            remedy="check the path",
        )
    console, folder, code = Console(stderr=True), Path(options.source), 0
    page = folder / report.PAGE
    if not folder.is_dir():
        run, page = run_audit(console, options, options.source, command, loss=options.loss)
        folder, code = page.parent, exit_code(run)
        tell_failures(console, run)
        if run.interrupted and not run.trainings:
            console.print(f"Interrupted before a training was finished. Report: {page}")
            return code
    elif options.settings or options.out or options.seed is not None:
        raise SpecificationError(
            "command line",
            expected="a specification where --set, --out or --seed is given",
            found=f"the folder {options.source!r}",
            remedy="leave them out, or name the specification",
        )
    found = report.recommendations(folder, options.loss)
    with printing():
        if options.json:
            print(json.dumps([advice.as_json() for advice in found], indent=1, allow_nan=False))
        else:
            shown = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
            for advice in found:
                text = "\n".join(one_line(line, LONGEST) for line in advice.lines())
                shown.print(text, markup=False)
    tell_path(console, "Report:", page)
    return code
