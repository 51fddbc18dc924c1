"""Records on disk: one JSON object a line, each written whole or not at all."""

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
"""Fields that differ between two runs of one seed on one machine, with one build of each library. No other does."""


@dataclass(repr=False)
class JobResult(Summarized):
    """A record, and the files that it names by path relative to the run's folder: pictures, a traceback."""

    record: Cell | Training
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Place of the job in the plan."""
        return self.record.index


def check_folder(path: str | Path) -> None:
    """Raise OutputError if a run cannot be written to `path`. What is made to find out is removed again."""
    check_path(path, "output folder", OutputError)
    folder = Path(path)
    try:
        _check_place(folder)
        _try_out(folder)
    # ValueError: a path with a NUL character.
    except (OSError, ValueError) as error:
        raise _unusable(folder, reason(error)) from error


def _check_place(folder: Path) -> None:
    """Raise OutputError for a path that cannot be a run's folder by what is there already."""
    if folder.exists() and not folder.is_dir():
        raise _unusable(folder, "a file of that name")
    if (folder / FILE).exists():
        raise _unusable(folder, f"{FILE} of an earlier run")
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise _unusable(folder, f"no right to write in {str(existing)!r}")
    for i, part in enumerate(folder.parts):
        # The system would need that folder made, though nothing is written into it.
        if part == ".." and not Path(*folder.parts[:i]).is_dir():
            raise _unusable(folder, f"no folder {str(Path(*folder.parts[:i]))!r} to go up from")


def _try_out(folder: Path) -> None:
    """Make the folder and a file in it, and remove both. Raises OSError: a file system may grant less than rights."""
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
    return OutputError(
        f"output folder {str(folder)!r}",
        expected="a folder that can be written, without records in it",
        found=found,
        remedy="choose another with --out, or remove what is there",
    )


class RunFolder:
    """A new folder of one run: records as they come, pictures and tracebacks beside them."""

    def __init__(self, path: str | Path) -> None:
        """Raises OutputError where the folder cannot be made or holds a run already."""
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
            OutputLost: there was no room, say. Nothing of the record is left: the lines before it are whole.
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
                f"the first {self.lines} lines of {FILE} are whole",
            ) from error


def append_whole(path: Path, content: bytes) -> None:
    """Append to a file all of `content`, or nothing. Raises OSError."""
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
    """Return the records of a run with its cells and trainings in the order of the plan, header first, end last.

    On disk they are in the order in which they were finished.
    """
    return sorted(records, key=_place)


def _place(record: Record) -> float:
    """Return the place of a record in the plan: the header's is before all, the end's behind."""
    if isinstance(record, Cell | Training):
        return record.index
    return -math.inf if isinstance(record, Header) else math.inf


def without_times(record: Record) -> dict[str, Any]:
    """Return the fields of a record without its times and its number of processes.

    A second run of the same seed reproduces the rest exactly, on the same machine and library builds. See `in_order`
    for runs of several processes.
    """
    told: dict[str, Any] = _timeless(record.model_dump(mode="json"))
    return told


def _timeless(value: Any) -> Any:
    """Return a value without the fields TIMES of any dictionary in it."""
    if isinstance(value, Mapping):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value
