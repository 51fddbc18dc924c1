"""One record as one line of JSON."""

from __future__ import annotations

from leakgauge.records.schema import Record

FILE = "records.jsonl"
"""Name of the file in the folder of a run."""


def line_of(record: Record) -> bytes:
    """Return a record as one line of JSON in UTF-8, with its newline. Every field is in it; what is missing is null."""
    return record.model_dump_json().encode() + b"\n"
