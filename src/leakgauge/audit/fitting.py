"""Records short enough for their reader. Fields that make a line too long are left out, with a note."""

from __future__ import annotations

from typing import Any

from leakgauge.audit.folder import JobResult
from leakgauge.core import LeakGaugeError
from leakgauge.records import Cell, Training, line_of, reading

OPTIONAL: dict[str, Any] = {
    "trajectory": (),
    "rows": None,
    "sentences": None,
    "images": None,
    "notes": (),
}
"""Fields of a cell that may be left out, in this order, with the empty value that replaces each."""


class RecordTooLong(LeakGaugeError):
    """The line of a record is too long for readers, even without the fields that may be left out."""


def shorten(result: JobResult) -> JobResult:
    """Return the result with a record whose line is at most `records.reading.LONGEST_LINE` bytes long.

    Raises:
        RecordTooLong: The line is still longer without all the fields that may be left out.
    """
    record, left_out = result.record, list[str]()
    if _fits(record):
        return result
    for name, empty in OPTIONAL.items() if isinstance(record, Cell) else ():
        if getattr(record, name) == empty:
            continue
        left_out.append(name)
        notes = () if name == "notes" else getattr(record, "notes", ())
        earlier = tuple(note for note in notes if not note.startswith(_START))
        note = f"{_START} {reading.LONGEST_LINE:,} bytes: {', '.join(left_out)}"
        record = record.model_copy(update={name: empty, "notes": (*earlier, note)})
        if _fits(record):
            return JobResult(record, _named_files(record, result.files))
    raise RecordTooLong(
        f"its record is longer than {reading.LONGEST_LINE:,} bytes, the most that readers accept: lower the batch size"
    )


_START = "fields left out, as a line of the records has at most"
"""Start of the note that names the fields that were left out."""


def _fits(record: Cell | Training) -> bool:
    """Return whether the line of a record is short enough for readers."""
    return len(line_of(record)) <= reading.LONGEST_LINE


def _named_files(record: Cell | Training, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that a record still names."""
    names = {record.failure.log} if record.failure else set[str]()
    if isinstance(record, Cell):
        names |= {moment.image for moment in record.trajectory if moment.image}
        if record.images:
            sides = record.images
            names |= {*sides.original, *sides.reconstruction, *sides.control}
    return {path: content for path, content in files.items() if path in names}
