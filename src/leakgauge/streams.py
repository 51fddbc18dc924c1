"""Standard output and standard error of the command. They may have any encoding, be closed, or lead to a full disk."""

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
    """Let both streams print any character, and replace closed streams. Return whether standard output is closed.

    A character that the encoding of the stream lacks is printed as its escape sequence.
    """
    closed = sys.stdout is None
    # The order matters. An opened file takes the lowest free descriptor, so standard output comes first.
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
    """Flush standard output at the end of the block.

    Raises:
        OutputLost: The output cannot be written, for example on a full disk.
        BrokenPipeError: The reader of the output has ended.
    """
    try:
        try:
            yield
        finally:
            # Otherwise a failure to write would appear only when the program exits.
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise unprintable(reason(error)) from error


def silence(stream: TextIO) -> None:
    """Discard the rest of a standard stream. Otherwise Python would try to write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Forgiving:
    """A text stream that discards its text after the first failure to write.

    A stream fails on a full disk, or if its reader has ended. Progress is written to this stream, so that a failure to
    display it never ends a run.

    Args:
        stream: An open text stream with a file descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        with self.forgiven():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text."""
        with self.forgiven():
            self.stream.flush()

    @contextmanager
    def forgiven(self) -> Iterator[None]:
        """If the block cannot write to the stream, discard all further text."""
        try:
            yield
        except OSError:
            silence(self.stream)


def standard_error() -> IO[str]:
    """Return standard error as a stream that ignores failures to write."""
    stream: Any = Forgiving(sys.stderr)
    return cast("IO[str]", stream)


def unprintable(found: str) -> OutputLost:
    """Return the error for a standard output that cannot be written."""
    return OutputLost(
        "standard output",
        expected="a stream that can be written",
        found=found,
        remedy="send the output elsewhere. The records and the report of a run are complete",
    )
