"""Files of others: looked at before they are opened, as opening some of them never returns."""

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


def check_path(path: object, where: str, error: type[UserError]) -> None:
    """Raise `error` unless `path` is text or a Path. A number would name an open file of the caller's."""
    if not isinstance(path, str | os.PathLike):
        raise error(
            where,
            expected="a path, as a string or a pathlib.Path",
            found=f"an object of type {type(path).__name__}",
            remedy="give the path",
        )


def check_file(
    path: str | Path, where: str, *, most: int, expected: str, error: type[UserError]
) -> None:
    """Raise `error` unless `path` is a regular file of at most `most` bytes.

    A link is followed. expected: what the file should be, in words, for the message.
    """
    check_path(path, where, error)
    try:
        found = os.stat(path)
    # ValueError: a path with a NUL character.
    except (OSError, ValueError) as cause:
        raise error(
            where, expected=expected, found=reason(cause), remedy="check the path and its rights"
        ) from cause
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "no regular file")
        raise error(where, expected=expected, found=kind, remedy="name a regular file")
    if found.st_size > most:
        raise error(
            where,
            expected=f"{expected} of at most {most:,} bytes",
            found=f"{found.st_size:,} bytes",
            remedy="name a smaller file",
        )


def reason(error: BaseException) -> str:
    """Return what an exception says, or its type where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
