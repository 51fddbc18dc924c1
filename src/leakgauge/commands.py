"""The work of the command after its arguments are parsed: audits, recommendations, inspections and lists."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

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
from leakgauge.audit.materials import model_maker, part_of
from leakgauge.audit.specification import apply
from leakgauge.catalog import lines
from leakgauge.console import Output, announce, conclude, tell_failures, tell_mode, tell_path, watch
from leakgauge.core import OutputError, OutputLost, SpecificationError
from leakgauge.core.errors import LONGEST
from leakgauge.core.lines import one_line
from leakgauge.exit_codes import DONE, FAILED
from leakgauge.inspection import inspect
from leakgauge.inspection.domains import domain_of
from leakgauge.streams import printing, standard_error


def run(options: argparse.Namespace, command: str) -> int:
    """Run one command and return its exit code.

    Args:
        options: The arguments, parsed and checked by `leakgauge.cli`.
        command: The command line, for the records.
    """
    if options.command == "list":
        with printing():
            print("\n".join(lines(options.what)))
        return DONE
    if options.command == "recommend":
        return run_recommend(options, command)
    if options.command == "inspect":
        return run_inspect(options)
    console = Console(file=standard_error())
    done, page = run_audit(console, options, options.spec, command)
    conclude(console, done, page, as_json=options.json)
    return exit_code(done)


def exit_code(run: Run) -> int:
    """Return the exit code that says how a run ended."""
    if run.interrupted:
        return run.code
    return FAILED if run.failures else DONE


def run_audit(
    console: Console,
    options: argparse.Namespace,
    spec: str | None,
    command: str,
    *,
    loss: float | None = None,
) -> tuple[Run, Path]:
    """Plan a run, print its estimated time, run it, and write the report.

    Args:
        console: Where progress is shown.
        options: The arguments of the command.
        spec: Path of the specification, or None for the default audit.
        command: The command line, for the records.
        loss: Largest loss of test accuracy for a recommendation, in [0, 1]. If it is given, the specification must
            measure utility.
    """
    see_current_folder()
    source = Source(read(spec), tuple(options.settings), options.seed)
    if loss is not None and all(case.utility is None for case in parse(source).cases):
        raise SpecificationError(
            f"specification {str(spec)!r}",
            expected="a case with a section utility, which measures what defenses cost",
            found="none",
            remedy="add utility = {} to a case, or pass --set utility={}",
        )
    out = options.out or f"leakgauge-runs/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    check_folder(out)
    plan = plan_from(source, max_cells=options.max_cells)
    cores = available_cores() if options.workers is None else options.workers
    workers = min(cores, len(plan.jobs))
    announce(console, plan, workers, out)
    run = watch(console, plan, out=out, workers=workers, command=command)
    return run, write_page(out, report.LOSS if loss is None else loss)


def see_current_folder() -> None:
    """Let a user's own `module:factory` be found in the current folder, as with `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def write_page(out: str, loss: float) -> Path:
    """Write the report of a run that has just ended, and return its path. If this fails, all records remain."""
    try:
        return report.write_report(out, loss)
    except KeyboardInterrupt as stop:
        stop.add_note(f"The records in {out} are complete. The report was not written.")
        raise
    except OutputError as error:
        raise OutputLost(
            f"output folder {out!r}",
            expected="room for the report",
            found=error.found,
            remedy="free space, then call leakgauge.write_report (the records are complete)",
        ) from error


def run_recommend(options: argparse.Namespace, command: str) -> int:
    """Print a recommendation from the records of a run. If a specification is given, run it first."""
    console, folder, code = Console(file=standard_error()), Path(options.source), 0
    page = folder / report.PAGE
    if not folder.is_dir():
        run, page = run_audit(console, options, options.source, command, loss=options.loss)
        folder, code = page.parent, exit_code(run)
        tell_failures(console, run)
        if run.interrupted and not run.trainings:
            console.print(f"Interrupted before a training was finished. Report: {page}")
            return code
    found = report.recommendations(folder, options.loss)
    with printing():
        if options.json:
            print(json.dumps([advice.as_json() for advice in found], indent=1, allow_nan=False))
        else:
            shown = Output(highlight=False, soft_wrap=not sys.stdout.isatty())
            for advice in found:
                text = "\n".join(map(printable, advice.lines()))
                shown.print(text, markup=False)
    tell_path(console, "Report:", page)
    return code


def run_inspect(options: argparse.Namespace) -> int:
    """Print what a network gives away by counting."""
    see_current_folder()
    case: dict[str, Any] = {"model": {"name": options.model}}
    for setting in options.settings:
        apply({"cases": [case]}, f"model.{setting}")
    build = model_maker(part_of(case["model"], "model"), "model", options.seed)
    domain = domain_of(options.shape, options.vocabulary)
    model = build(domain, options.classes)
    tell_mode(Console(file=standard_error()), options.model, model, "pass --set train=true")
    found = inspect(
        model,
        domain,
        batch=options.batch,
        steps=options.steps,
        clients=options.clients,
    )
    with printing():
        if options.json:
            print(json.dumps(found.as_json(), indent=1, allow_nan=False))
        else:
            print("\n".join(found.lines()))
    return DONE


def printable(line: str) -> str:
    """Return one line of a recommendation without control characters. Its indentation stays."""
    indent = len(line) - len(line.lstrip(" "))
    return line[:indent] + one_line(line, LONGEST)
