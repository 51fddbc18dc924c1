"""Standard output and error of the command: of any encoding, full, or closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, Any, TextIO, cast

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
        silence(sys.stdout)
        raise unprintable(reason(error)) from error


def silence(stream: TextIO) -> None:
    """Send the rest of a standard stream nowhere: Python writes it out once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Forgiving:
    """A text stream that falls silent once it cannot be written to, as on a full disk or when its reader has gone.

    Progress goes through it: a run that nobody watches is a run all the same.

    Args:
        stream: an open text stream of a file descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self.forgiven():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self.forgiven():
            self.stream.flush()

    @contextmanager
    def forgiven(self) -> Iterator[None]:
        """Inside, the stream is written to. Where it cannot be, it is sent nowhere from then on."""
        try:
            yield
        except OSError:
            silence(self.stream)


def standard_error() -> IO[str]:
    """Return standard error, whose failure ends nothing."""
    stream: Any = Forgiving(sys.stderr)
    return cast("IO[str]", stream)


def unprintable(found: str) -> OutputLost:
    """Return the error of a standard output that cannot be written to."""
    return OutputLost(
        "standard output",
        expected="room for what is printed",
        found=found,
        remedy="send it elsewhere: the records and the report of a run are whole",
    )
