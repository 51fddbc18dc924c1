"""The command line: `leakgauge audit`, `leakgauge recommend`, `leakgauge list` and `leakgauge schema`.

What it imports first takes milliseconds, so that help, the version and mistakes on the command line are told at once.
`leakgauge.commands`, which does the work, imports torch, and that takes seconds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from leakgauge import __version__
from leakgauge.audit.grid import MOST_CELLS
from leakgauge.audit.signals import code_of, stoppable
from leakgauge.core.errors import (
    LONGEST,
    LeakGaugeError,
    OutputLost,
    SpecificationError,
    UserError,
)
from leakgauge.core.lines import one_line
from leakgauge.exit_codes import DONE, FAILED, REFUSED
from leakgauge.installation import check_installation
from leakgauge.report.defaults import LOSS
from leakgauge.streams import prepare_streams, printing, silence, standard_error, unprintable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

LISTED = ("attacks", "data", "defenses", "metrics", "models", "threats")
"""What `leakgauge list` can list: the keys of `leakgauge.catalog.CATALOG`, whose import takes seconds."""


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


class Version(argparse.Action):
    """Print the version and exit. argparse's own is silent where the stream cannot be written to."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        print(f"leakgauge {__version__}")
        parser.exit()


def parser() -> Parser:
    """Return the parser of the command line."""
    top = Parser(
        prog="leakgauge",
        description="Measure how much private training data leaks from shared gradients and updates. "
        "Audit only models and data that you may.",
        epilog="Exit codes: 0 done, 1 an audit failed (the others are recorded), 2 refused before anything ran, "
        "130 Ctrl-C, 143 SIGTERM.",
    )
    top.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="{audit,recommend,list,schema}"
    )
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
        default=LOSS,
        metavar="SHARE",
        help=f"test accuracy that may be lost, in [0, 1] (default: {LOSS:g})",
    )
    running(advice)
    advice.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    listing = commands.add_parser("list", help="what can be named in a specification")
    listing.add_argument("what", choices=LISTED)
    commands.add_parser("schema", help="the JSON Schema of a line of records.jsonl")
    return top


def running(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs an audit."""
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
        "--workers", type=int, help="worker processes (default: one for each core)"
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
        with printing():
            options = parser().parse_args(given)
        check(options)
        if options.command == "schema":
            code = print_schema()
        else:
            # Outside `stoppable`: its exception would unwind through imports that are half done (see `interrupts`).
            check_installation()
            from leakgauge.commands import run

            with stoppable():
                code = run(options, "leakgauge " + shlex.join(given))
        if closed:
            raise unprintable("it is closed")
        return code
    except OutputLost as error:
        return told(error, FAILED)
    except UserError as error:
        return told(error, REFUSED)
    except LeakGaugeError as error:
        return told(error, FAILED)
    except KeyboardInterrupt as stop:
        (note,) = getattr(stop, "__notes__", ["Nothing was recorded."])
        print(f"leakgauge: interrupted. {note}", file=standard_error())
        return code_of(stop)
    except BrokenPipeError:
        # Whoever read the output wants no more of it, as `head` does. The run and its report are on disk.
        silence(sys.stdout)
        return DONE


def print_schema() -> int:
    """Print the JSON Schema of a record, which needs no torch. Return the exit code."""
    from leakgauge.records.document import schema_text

    with printing():
        print(schema_text(), end="")
    return DONE


def told(error: LeakGaugeError, code: int) -> int:
    """Print an error in one line, and return the exit code."""
    print(f"leakgauge: {one_line(str(error), 4 * LONGEST)}", file=standard_error())
    return code


def check(options: argparse.Namespace) -> None:
    """Raise SpecificationError where options are out of range or do not go together."""
    if options.command in ("list", "schema"):
        return
    if options.command == "recommend":
        check_recommend(options)
    for name, value in (("--workers", options.workers), ("--max-cells", options.max_cells)):
        if value is not None and value < 1:
            raise SpecificationError(
                name, expected="at least 1", found=str(value), remedy="raise it"
            )


def check_recommend(options: argparse.Namespace) -> None:
    """Raise SpecificationError where a recommendation cannot be made from these options."""
    if not 0 <= options.loss <= 1:
        raise SpecificationError(
            "--loss",
            expected="a fraction of accuracy in [0, 1]",
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
    audited = os.path.isdir(options.source)
    if audited and (options.settings or options.out or options.seed is not None):
        raise SpecificationError(
            "command line",
            expected="a specification where --set, --out or --seed is given",
            found=f"the folder {options.source!r}",
            remedy="leave them out, or name the specification",
        )
