"""Standard output and error of the command: of any encoding, full, or closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from leakgauge.core.errors import OutputLost
from leakgauge.core.files import reason


def prepare_streams() -> bool:
    """Let both streams print any character, and replace closed ones. Return whether standard output is closed.

    A character that the stream's encoding does not have becomes its escape sequence.
    """
    closed = sys.stdout is None
    # In this order: an open file takes the lowest number that is free, and no other file must become the output.
    if closed:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return closed


@contextmanager
def printing() -> Iterator[None]:
    """Inside, something is printed to standard output. It is written out at the end.

    Raises:
        OutputLost: it cannot be written, as on a full disk.
        BrokenPipeError: its reader has gone.
    """
    try:
        try:
            yield
        finally:
            # Else what is wrong is noticed only after the last line of this program.
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise unprintable(reason(error)) from error


def silence() -> None:
    """Send the rest of standard output nowhere: Python writes it out once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unprintable(found: str) -> OutputLost:
    """Return the error of a standard output that cannot be written to."""
    return OutputLost(
        "standard output",
        expected="room for what is printed",
        found=found,
        remedy="send it elsewhere: the records and the report of a run are whole",
    )
