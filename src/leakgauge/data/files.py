"""The lookup of files of examples and of weights."""

from __future__ import annotations

import os
from pathlib import Path

from leakgauge.core import DataError, UserError
from leakgauge.core.files import check_path, reason

VARIABLE = "LEAKGAUGE_DATA"


def find_file(path: str | Path, *subfolders: str, error: type[UserError] = DataError) -> Path:
    """Return the path of an existing file or folder, looked up under several folders.

    A path is looked up as given. A relative one is then looked up under the folder in the environment
    variable `LEAKGAUGE_DATA`, then under its subfolders. The first that exists is returned.

    Args:
        path: The path. A leading "~" is the user's home.
        *subfolders: Names of subfolders of `$LEAKGAUGE_DATA`, searched in this order.
        error: The class of the error to raise.

    Raises:
        DataError: No file or folder exists at any of the places, or the path cannot be looked up.
            With `error`, that class is raised instead.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import leakgauge as lg
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "mine.npz")
        ...     path.touch()
        ...     lg.data.find_file(path) == path
        True
    """
    check_path(path, "file", error)
    try:
        return _find(path, subfolders, error)
    # The user named after ~ may not exist. The path may contain a NUL character or be too long. A
    # folder may be unreadable.
    except (RuntimeError, ValueError, OSError) as cause:
        raise error(
            f"file {str(path)!r}",
            expected="a path that can be looked up",
            found=reason(cause),
            remedy="check the path and its access rights",
        ) from cause


def _find(path: str | Path, subfolders: tuple[str, ...], error: type[UserError]) -> Path:
    """Return the first existing path, or raise `error` if there is none."""
    if not str(path):
        raise error(
            "file ''",
            expected="a path",
            found="an empty text",
            remedy="name the file, or leave it out",
        )
    given = Path(path).expanduser()
    candidates = [given]
    root = os.environ.get(VARIABLE)
    if root and not given.is_absolute():
        candidates += [Path(root, subfolder, given) for subfolder in ("", *subfolders)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if given.is_absolute():
        remedy = "check the path"
    elif root:
        remedy = f"check the path, and the content of the folder ${VARIABLE}"
    else:
        remedy = f"check the path, or set ${VARIABLE} to the folder that it is relative to"
    raise error(
        f"file {str(path)!r}",
        expected="an existing file or folder",
        found="nothing at " + ", ".join(str(c) for c in candidates),
        remedy=remedy,
    )
