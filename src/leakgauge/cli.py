"""The command line: `leakgauge audit`, `recommend`, `inspect`, `list` and `schema`.

This module imports only what loads in milliseconds. So help, the version and mistakes on the command line appear at
once. `leakgauge.commands` does the work. It imports torch, which takes seconds.
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
"""What `leakgauge list` can list. These are the keys of `leakgauge.catalog.CATALOG`, whose import takes seconds."""


class Parser(argparse.ArgumentParser):
    """A parser that raises SpecificationError for a mistake. The command prints it in one line."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        # The method of argparse ignores a failure to write.
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise SpecificationError(
            "command line",
            expected=self.format_usage().removeprefix("usage: ").strip(),
            found=message,
            remedy="see --help",
        )


class Version(argparse.Action):
    """Print the version and exit. The action of argparse would ignore a failure to write."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        print(f"leakgauge {__version__}")
        parser.exit()


def parser() -> Parser:
    """Return the parser of the command line."""
    top = Parser(
        prog="leakgauge",
        description="Measure how much private training data leaks from shared gradients and updates. "
        "Audit only models and data that you own or have permission to test.",
        epilog="Exit codes: 0 if everything ran; 1 if an audit failed (the others are recorded); 2 if the input was "
        "refused before anything ran; 130 after Ctrl-C; 143 after SIGTERM.",
    )
    top.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="{audit,recommend,inspect,list,schema}"
    )
    audit = commands.add_parser("audit", help="run an audit and write its report")
    audit.add_argument(
        "spec",
        nargs="?",
        metavar="SPEC.toml",
        help="the specification (default: the audit of bundled data)",
    )
    add_run_options(audit)
    audit.add_argument("--json", action="store_true", help="print the records instead of a table")
    advice = commands.add_parser(
        "recommend", help="recommend the cheapest defense that stopped every attack of a run"
    )
    advice.add_argument(
        "source",
        metavar="RUN_DIR|SPEC.toml",
        help="the folder of a run that measured utility, or a specification to run first",
    )
    advice.add_argument(
        "--loss",
        type=float,
        default=LOSS,
        metavar="FRACTION",
        help=f"largest loss of test accuracy, from 0 to 1 (default: {LOSS:g})",
    )
    add_run_options(advice)
    advice.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    add_inspect(
        commands.add_parser("inspect", help="count what a network gives away, without data")
    )
    listing = commands.add_parser("list", help="print the names that a specification may use")
    listing.add_argument("what", choices=LISTED)
    commands.add_parser("schema", help="print the JSON Schema of a line of records.jsonl")
    return top


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs an audit."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="settings",
        help="change an option of the specification, in every case. May be repeated",
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
        help=f"most audits and trainings in one run (default: {MOST_CELLS})",
    )


def add_inspect(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command that inspects a network."""
    command.add_argument(
        "model",
        metavar="MODEL",
        help="name of a network, see `leakgauge list models`, or your own as package.module:name",
    )
    command.add_argument(
        "--shape", required=True, help="shape of one example, for example 3,32,32 for color images"
    )
    command.add_argument("--classes", type=int, default=10, metavar="C", help="default: 10")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="an option of the network, for example width=64, weights=FILE or train=true. May be repeated",
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    command.add_argument(
        "--batch", type=int, metavar="B", help="batch size of the verdict (default: all)"
    )
    command.add_argument(
        "--steps", type=int, default=1, metavar="K", help="local steps on the batch (default: 1)"
    )
    command.add_argument(
        "--clients", type=int, default=1, metavar="N", help="clients in a sum (default: 1)"
    )
    command.add_argument(
        "--vocabulary",
        type=int,
        metavar="V",
        help="number of tokens, for a network that reads tokens",
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words of the command line after the name. By default those of this process.

    Returns:
        0 if everything ran. 1 if an audit or a training failed (the others are recorded). 2 if the input was refused
        before anything ran. 130 after Ctrl-C, 143 after SIGTERM.
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
            # The imports stand outside `stoppable`, whose exception could interrupt an import (see `interrupts`).
            check_installation()
            from leakgauge.commands import run

            with stoppable():
                code = run(options, "leakgauge " + shlex.join(given))
        if closed:
            raise unprintable("it is closed")
        return code
    except OutputLost as error:
        return report_error(error, FAILED)
    except UserError as error:
        return report_error(error, REFUSED)
    except LeakGaugeError as error:
        return report_error(error, FAILED)
    except KeyboardInterrupt as stop:
        (note,) = getattr(stop, "__notes__", ["Nothing was recorded."])
        print(f"leakgauge: interrupted. {note}", file=standard_error())
        return code_of(stop)
    except BrokenPipeError:
        # The reader of the output, for example `head`, has ended. The run and its report are on disk.
        silence(sys.stdout)
        return DONE


def print_schema() -> int:
    """Print the JSON Schema of a record, which needs no torch. Return the exit code."""
    from leakgauge.records.document import schema_text

    with printing():
        print(schema_text(), end="")
    return DONE


def report_error(error: LeakGaugeError, code: int) -> int:
    """Print an error in one line, and return the exit code."""
    print(f"leakgauge: {one_line(str(error), 4 * LONGEST)}", file=standard_error())
    return code


def check(options: argparse.Namespace) -> None:
    """Raise SpecificationError if an option is out of range, or if two options exclude each other."""
    if options.command in ("list", "schema"):
        return
    if options.command == "inspect":
        check_inspect(options)
        return
    if options.command == "recommend":
        check_recommend(options)
    for name, value in (("--workers", options.workers), ("--max-cells", options.max_cells)):
        if value is not None and value < 1:
            raise SpecificationError(
                name, expected="at least 1", found=str(value), remedy="give a larger number"
            )


def check_inspect(options: argparse.Namespace) -> None:
    """Raise SpecificationError if an option of `inspect` is out of range. Replace the shape by its numbers."""
    for name in ("classes", "batch", "steps", "clients", "vocabulary"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SpecificationError(
                f"--{name}", expected="at least 1", found=str(value), remedy="give a larger number"
            )
    if not 0 <= options.seed < 2**64:
        raise SpecificationError(
            "--seed",
            expected="at least 0, and below 2**64",
            found=str(options.seed),
            remedy="give another number",
        )
    for setting in options.settings:
        if not setting.partition("=")[1]:
            raise SpecificationError(
                f"--set {setting}",
                expected="KEY=VALUE",
                found=repr(setting),
                remedy="write, for example, --set width=64",
            )
    sizes = options.shape.split(",")
    if not all(size.strip().isdecimal() and len(size) < 10 and int(size) > 0 for size in sizes):
        raise SpecificationError(
            "--shape",
            expected="whole numbers of at least 1, with commas between them",
            found=repr(options.shape),
            remedy="give, for example, 3,32,32 for color images of 32 x 32 pixels",
        )
    options.shape = tuple(map(int, sizes))


def check_recommend(options: argparse.Namespace) -> None:
    """Raise SpecificationError if the options of `recommend` are out of range or exclude each other."""
    if not 0 <= options.loss <= 1:
        raise SpecificationError(
            "--loss",
            expected="a fraction of accuracy in [0, 1]",
            found=str(options.loss),
            remedy="give, for example, 0.02 for two percentage points",
        )
    # `Path.exists` raises an exception for a name that is too long.
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
            expected="a specification, because --set, --out and --seed change a run",
            found=f"the folder {options.source!r} of a run that exists",
            remedy="remove these options, or name the specification",
        )
