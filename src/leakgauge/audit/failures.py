"""Failures of cells and trainings: the step, the reason in one line, and the traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from pydantic import ValidationError

from leakgauge.audit.folder import JobResult
from leakgauge.core import LeakGaugeError
from leakgauge.core.lines import one_line
from leakgauge.core.progress import WatcherError
from leakgauge.records import Cell, Failure, Training, mistake_of

Result = TypeVar("Result")

FOLDER = "failures"
"""Folder of the tracebacks, next to the records."""
LONGEST = 400
"""Largest number of characters of a reason. The traceback has the whole text."""


class Failed(Exception):
    """An exception that ended a step of a cell or a training.

    Args:
        step: Name of the step: "data", "update", "check", "attack", "metric", "control", "picture",
            "training" or "worker".
        cause: The exception.
    """

    def __init__(self, step: str, cause: BaseException) -> None:
        self.step, self.cause = step, cause
        super().__init__(f"the {step} failed: {reason_of(cause)}")

    def record(self, index: int) -> Failure:
        """Return the failure for the record of the job with this index."""
        return Failure(step=self.step, reason=reason_of(self.cause), log=log_of(index))

    @property
    def traceback(self) -> bytes:
        """The traceback of the exception and of its causes, as text in UTF-8."""
        return "".join(traceback.format_exception(self.cause)).encode(errors="backslashreplace")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Raise every exception of one step as Failed, with the name of the step.

    A user's module may raise anything, call sys.exit, or run out of memory. Then only this cell fails.
    Ctrl-C is not caught.
    """
    try:
        yield
    except (Failed, KeyboardInterrupt, WatcherError):
        raise
    except BaseException as error:
        raise Failed(name, error) from error


def try_step(name: str, compute: Callable[[], Result]) -> Result | Failed:
    """Return the result of `compute`, or the failure that ended it."""
    try:
        with step(name):
            return compute()
    except Failed as failed:
        return failed


def failed_result(
    record: Cell | Training, failed: Failed, files: Mapping[str, bytes] | None = None
) -> JobResult:
    """Return the result of a failed job: its record, its files, and the traceback of `failed`."""
    return JobResult(record, {**(files or {}), log_of(record.index): failed.traceback})


def reason_of(error: BaseException) -> str:
    """Return the type and the text of an exception in one line of at most LONGEST characters.

    The line of a LeakGauge error has no type. If a record cannot hold a value, the line names the field.
    """
    if isinstance(error, ValidationError):
        return one_line(mistake_of(error), LONGEST)
    ours = isinstance(error, LeakGaugeError)
    # `str` of a user's exception may run code that fails. `traceback` handles this.
    text = str(error) if ours else "".join(traceback.format_exception_only(error))
    return one_line(text, LONGEST)


def log_of(index: int) -> str:
    """Return the path of a job's traceback, relative to the folder of the run."""
    return f"{FOLDER}/{index:03d}.log"
