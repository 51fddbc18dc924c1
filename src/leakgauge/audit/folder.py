"""Records on disk: one JSON object a line. Each line is written completely or not at all."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leakgauge.core import OutputError, OutputLost
from leakgauge.core.files import check_path, reason
from leakgauge.core.summaries import Summarized
from leakgauge.records import FILE, Cell, Header, Record, Training, line_of

TIMES = frozenset({"started", "seconds", "round_seconds", "workers"})
"""Fields that may differ between two runs of one seed on the same machine and library builds. All others are equal."""


@dataclass(repr=False)
class JobResult(Summarized):
    """A record and its files: pictures and a traceback. Keys of `files` are paths relative to the run's folder."""

    record: Cell | Training
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Place of the job in the plan."""
        return self.record.index


def check_folder(path: str | Path) -> None:
    """Raise OutputError if a run cannot be written to a folder.

    The check makes the folder and a file in it, and removes both again.

    Args:
        path: The folder. It need not exist.

    Raises:
        OutputError: The folder cannot be written, or holds the records of an earlier run.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from leakgauge.audit import check_folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_folder(Path(folder, "out"))
        ...     print(Path(folder, "out").exists())
        False
    """
    check_path(path, "output folder", OutputError)
    folder = Path(path)
    try:
        _check_place(folder)
        _try_out(folder)
    # A path with a NUL character raises ValueError.
    except (OSError, ValueError) as error:
        raise _unusable(folder, reason(error)) from error


def _check_place(folder: Path) -> None:
    """Raise OutputError if existing files, permissions or parts of the path prevent a new run's folder."""
    if folder.exists() and not folder.is_dir():
        raise _unusable(folder, "a file with that name")
    if (folder / FILE).exists():
        raise _unusable(folder, f"{FILE} of an earlier run")
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise _unusable(folder, f"no permission to write in {str(existing)!r}")
    for i, part in enumerate(folder.parts):
        # The system resolves `..` only if the folder before it exists.
        if part == ".." and not Path(*folder.parts[:i]).is_dir():
            raise _unusable(
                folder, f"a path through {str(Path(*folder.parts[:i]))!r}, which is no folder"
            )


def _try_out(folder: Path) -> None:
    """Make the folder and a file in it, and remove both. Raise OSError if one of these steps fails."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            place.mkdir()
            made.append(place)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for place in reversed(made):
            place.rmdir()


def _unusable(folder: Path, found: str) -> OutputError:
    """Return the error for a folder that cannot hold a new run."""
    return OutputError(
        f"output folder {str(folder)!r}",
        expected="a folder that can be written and holds no records",
        found=found,
        remedy="choose another folder with --out, or remove what is there",
    )


class RunFolder:
    """The folder of one new run: its records, pictures and tracebacks."""

    def __init__(self, path: str | Path) -> None:
        """Make the folder. Raise OutputError if that fails, or if the folder holds a run already."""
        check_folder(path)
        self.path = Path(path)
        self.file = self.path / FILE
        self.lines = 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.file.open("x").close()
        except OSError as error:
            raise _unusable(self.path, reason(error)) from error

    def append(self, record: Record, files: Mapping[str, bytes] | None = None) -> None:
        """Write the files first, then the record that names them, as one line.

        Raises:
            OutputLost: The record could not be written, for example on a full disk. No part of it is left. All
                lines before it are complete.
        """
        line = line_of(record)
        made: list[Path] = []
        try:
            for name, content in (files or {}).items():
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                made.append(target)
                target.write_bytes(content)
            append_whole(self.file, line)
            self.lines += 1
        except OSError as error:
            for target in made:
                with suppress(OSError):
                    target.unlink()
            raise OutputLost(
                f"output folder {str(self.path)!r}",
                expected="a folder that can be written",
                found=error.strerror or str(error),
                remedy="free space, then run again with another --out: "
                f"the first {self.lines} lines of {FILE} are complete",
            ) from error


def append_whole(path: Path, content: bytes) -> None:
    """Append all of `content` to a file. If that fails, append nothing and raise OSError."""
    with path.open("ab", buffering=0) as stream:
        before = os.fstat(stream.fileno()).st_size
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), before)
            raise


def in_order(records: Sequence[Record]) -> list[Record]:
    """Return the records of a run in the order of the plan.

    The header comes first, then cells, trainings and the end. On disk, records are in the order in which they were
    finished.

    Args:
        records: Records in any order.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.audit import in_order
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks)
        >>> records = lg.audit(case).records
        >>> [type(record).__name__ for record in in_order(records[::-1])]
        ['Header', 'Cell', 'End']
    """
    return sorted(records, key=_place)


def _place(record: Record) -> float:
    """Return the place of a record in the plan: minus infinity for the header, plus infinity for the end."""
    if isinstance(record, Cell | Training):
        return record.index
    return -math.inf if isinstance(record, Header) else math.inf


def without_times(record: Record) -> dict[str, Any]:
    """Return the fields of a record without its times and its number of processes.

    A second run of the same seed on the same machine and library builds has exactly equal fields. Sort runs of several
    processes by `in_order` before you compare them.

    Args:
        record: A header, cell, training or end.

    Example:
        >>> from leakgauge.audit import without_times
        >>> from leakgauge.records import End
        >>> fields = without_times(End(
        ...     completed=1, planned=1, trainings_completed=0, trainings_planned=0,
        ...     failed=0, interrupted=False, seconds=0.5,
        ... ))
        >>> "seconds" in fields, fields["completed"]
        (False, 1)
    """
    fields: dict[str, Any] = _timeless(record.model_dump(mode="json"))
    return fields


def _timeless(value: Any) -> Any:
    """Return a value without the fields in TIMES, in dictionaries at any depth."""
    if isinstance(value, Mapping):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value
