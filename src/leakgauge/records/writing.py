"""Writing of one record as one line of JSON."""

from __future__ import annotations

from leakgauge.records.schema import Record

FILE = "records.jsonl"
"""Name of the file of records in the folder of a run."""


def line_of(record: Record) -> bytes:
    """Return a record as one line of JSON in UTF-8, with a newline at the end.

    Every field is in the line. A missing value is null.

    Args:
        record: The record to write.

    Example:
        >>> from leakgauge.records import End, line_of
        >>> end = End(
        ...     completed=1, planned=1, trainings_completed=0, trainings_planned=0,
        ...     failed=0, interrupted=False, seconds=2.5,
        ... )
        >>> line_of(end)[:28]
        b'{"type":"end","completed":1,'
    """
    return record.model_dump_json().encode() + b"\n"
