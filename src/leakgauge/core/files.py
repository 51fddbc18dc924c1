"""Checks of a user's files before they are opened. Opening a named pipe, for example, can wait forever."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from leakgauge.core.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
"""Tests of the mode of a file that is not regular. Each test has its words for a message."""


def check_path(path: object, where: str, error: type[UserError]) -> None:
    """Raise `error` unless `path` is a string or a Path.

    A number is refused. Python would take it for the descriptor of a file that is already open.

    Args:
        path: The object to check.
        where: What the path is for, for the message.
        error: The class of the error to raise.
    """
    if not isinstance(path, str | os.PathLike):
        raise error(
            where,
            expected="a path, as a string or a pathlib.Path",
            found=f"an object of type {type(path).__name__}",
            remedy="pass the path of the file",
        )


def check_file(
    path: str | Path, where: str, *, most: int, expected: str, error: type[UserError]
) -> None:
    """Raise `error` unless `path` is a regular file of at most `most` bytes. Links are followed.

    Args:
        path: The file.
        where: What the file is for, for the message.
        most: Largest size, in bytes.
        expected: What the file should be, in words, for the message.
        error: The class of the error to raise.
    """
    check_path(path, where, error)
    try:
        found = os.stat(path)
    # A path with a NUL character raises a ValueError.
    except (OSError, ValueError) as cause:
        raise error(
            where, expected=expected, found=reason(cause), remedy="check the path and its rights"
        ) from cause
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "a special file")
        raise error(where, expected=expected, found=kind, remedy="pass the path of a regular file")
    if found.st_size > most:
        raise error(
            where,
            expected=f"{expected} of at most {most:,} bytes",
            found=f"{found.st_size:,} bytes",
            remedy="pass a smaller file",
        )


def reason(error: BaseException) -> str:
    """Return the text of an exception, or its type if the text is empty."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
