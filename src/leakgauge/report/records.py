"""Records as the report reads them: JSON lines on disk, then a typed, immutable run.

Reading is strict about lines, types and names. `lenient` checks every other field, once.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENODEV
from pathlib import Path
from typing import Any

from leakgauge.core.errors import DataError
from leakgauge.report.cells import Cell, cell_of
from leakgauge.report.header import Header, header_of
from leakgauge.report.lenient import integer, mapping, number, text
from leakgauge.report.trainings import Training, training

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole run: its header, its cells and trainings in the order of the plan, and how it ended."""

    header: Header
    cells: tuple[Cell, ...]
    trainings: tuple[Training, ...]
    planned: int
    trainings_planned: int
    seconds: float | None
    partial: bool


def read(path: Path) -> list[Mapping[str, Any]]:
    """Return the records of a JSON-lines file.

    A last line that a crash cut in two is left out: nothing that was finished stands in it.

    Raises:
        DataError: there is no such file, or another line is bad.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(ENODEV, "No regular file")  # opening a pipe would wait for its writer
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise DataError(
            path.name,
            expected="a readable records file in the run's folder",
            found=reason.lower(),
            remedy="run `leakgauge audit` first, or name the folder that it wrote",
        ) from None
    whole, _, rest = content.rpartition("\n")
    lines = [(n, line) for n, line in enumerate(whole.split("\n"), start=1) if line.strip()]
    with uncollected():
        records = [_decode(path.name, number, line) for number, line in lines]
    if rest.strip():
        with suppress(DataError):
            records.append(_decode(path.name, 0, rest))
    return records


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage inside, where many objects without cycles are made.

    Each collection visits every record read so far: 20,000 cells took 3.1 s to read with them, and 0.4 s without.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def parse(records: Sequence[Mapping[str, Any]]) -> Run:
    """Return a typed run.

    Raises:
        DataError: there is no header, it is of another schema, or a cell or a training lacks its names.
    """
    header = next((r for r in records if r.get("type") == "run"), None)
    if header is None:
        raise DataError(
            "records",
            expected="the header of a run: a line of type 'run'",
            found=f"{len(records)} other records" if records else "no records",
            remedy="run `leakgauge audit` again, or name the folder that it wrote",
        )
    if header.get("schema", SCHEMA) != SCHEMA:
        raise DataError(
            "records",
            expected=f"schema {SCHEMA}",
            found=f"schema {text(header.get('schema'))!r}",
            remedy="draw the report with the version of LeakGauge that made the records",
        )
    end = next((r for r in records if r.get("type") == "end"), None)
    numbered = sorted(enumerate(records, 1), key=_place)
    with uncollected():
        cells = tuple(cell_of(n, r) for n, r in numbered if r.get("type") == "cell")
    utility = [(n, r) for n, r in numbered if r.get("type") == "utility"]
    due = mapping((end or header).get("trainings"))
    planned = max(integer((end or header).get("planned")) or 0, len(cells))
    stopped = end is None or bool(end.get("interrupted"))
    return Run(
        header=header_of(header),
        cells=cells,
        trainings=tuple(training(n, r) for n, r in utility),
        planned=planned,
        trainings_planned=max(integer(due.get("planned")) or 0, len(utility)),
        seconds=number(end.get("seconds")) if end else None,
        partial=stopped or len(cells) < planned,
    )


def _place(numbered: tuple[int, Mapping[str, Any]]) -> tuple[int, int]:
    """Return the place of a record in the plan: lines are in the order in which they were finished."""
    position, record = numbered
    return integer(record.get("index")) or 0, position


def _decode(name: str, line_number: int, line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    # RecursionError: lists within lists, thousands deep.
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or "type" not in record:
        raise DataError(
            f"{name}, line {line_number}",
            expected="one JSON object with a type",
            found=f"{line[:40]!r}",
            remedy="delete the line, or repeat the run (a run cut while writing ends mid-line)",
        )
    return record
