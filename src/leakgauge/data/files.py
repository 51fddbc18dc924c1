"""Where files of examples and of weights are looked up."""

from __future__ import annotations

import os
from pathlib import Path

from leakgauge.core import DataError, UserError
from leakgauge.core.files import check_path, reason

VARIABLE = "LEAKGAUGE_DATA"


def find_file(path: str | Path, *subfolders: str, error: type[UserError] = DataError) -> Path:
    """Return the first that exists of the path as given, under $LEAKGAUGE_DATA, under its subfolders.

    A file or a folder. Raises `error` where there is none, and for a path that cannot be looked up.
    """
    check_path(path, "file", error)
    try:
        return _find(path, subfolders, error)
    # No such user behind ~, a NUL character, a name that is too long, a folder that may not be read.
    except (RuntimeError, ValueError, OSError) as cause:
        raise error(
            f"file {str(path)!r}",
            expected="a path that can be looked up",
            found=reason(cause),
            remedy="check the path and its rights",
        ) from cause


def _find(path: str | Path, subfolders: tuple[str, ...], error: type[UserError]) -> Path:
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
        remedy = f"check the path, and what ${VARIABLE} holds"
    else:
        remedy = f"check the path, or set ${VARIABLE} to the folder that it is relative to"
    raise error(
        f"file {str(path)!r}",
        expected="an existing file or folder",
        found="none at " + ", ".join(str(c) for c in candidates),
        remedy=remedy,
    )
