"""Records from disk. They may come from a stranger: sizes are limited, and each message is one line."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from leakgauge.core.errors import DataError
from leakgauge.core.files import check_file, reason
from leakgauge.records.end import End
from leakgauge.records.header import SCHEMA_VERSION, Header
from leakgauge.records.schema import Record, adapter

MOST_BYTES = 4 * 2**30
"""Largest file of records, in bytes."""
LONGEST_LINE = 64 * 2**20
"""Longest line, in bytes."""
SHOWN = 40
"""Bytes of a damaged line that a message shows."""
ANEW = "repeat the run: the records were changed or cut"
HEADED = "the header of a run as its first line, of type 'header'"


def read(path: str | Path) -> list[Record]:
    """Return the records of a JSON-lines file, as they were finished.

    A last line without a newline that is no whole record was cut by a crash, and is left out: nothing that was
    finished stands in it. A run that was killed has no end.

    Raises:
        DataError: the file cannot be read, is too large, is of another schema version, or a line is damaged. Or it is
            not one run: the first record is its only header, and nothing stands behind its end.
    """
    path = Path(path)
    name = path.name
    expected = "a readable records file in the run's folder"
    try:
        check_file(path, name, most=MOST_BYTES, expected=expected, error=DataError)
    except DataError as error:
        remedy = "run `leakgauge audit` first, or name the folder that it wrote"
        raise _bad(name, error.expected, error.found.lower(), remedy) from None
    reader = Reader(name)
    try:
        with path.open("rb") as stream, uncollected():
            while line := stream.readline(LONGEST_LINE + 1):
                reader.add(line)
    except OSError as error:
        raise _bad(name, "a readable file", reason(error).lower(), "check its rights") from None
    if not reader.records:
        remedy = "run the audit again: it was killed before it wrote a whole line, or the file was emptied"
        raise _bad(name, HEADED, "no records", remedy)
    return reader.records


@dataclass
class Reader:
    """Reads records line by line.

    Args:
        name: of the file, for messages.
    """

    name: str
    records: list[Record] = field(default_factory=list)
    number: int = 0

    def add(self, line: bytes) -> None:
        """Add the record of the next line. Raise DataError if it is damaged or of another schema version."""
        self.number += 1
        if not line.strip():
            return
        where = f"{self.name}, line {self.number}"
        if len(line) > LONGEST_LINE:
            found = "a longer one"
            raise _bad(where, f"a line of at most {LONGEST_LINE:,} bytes", found, ANEW)
        try:
            record = adapter().validate_json(line)
        except ValidationError as error:
            if line.endswith(b"\n") or _whole(line):
                raise explained(error, _json(line), where) from None
            return
        self._check_place(record, where)
        self.records.append(record)

    def _check_place(self, record: Record, where: str) -> None:
        """Raise DataError if a record cannot stand behind those before it in the file of one run."""
        found = f"a line of type {record.type!r}"
        if not self.records:
            if not isinstance(record, Header):
                raise _bad(where, HEADED, found, "put the header back, or repeat the run")
        elif isinstance(record, Header):
            remedy = "keep each run in a folder of its own, and leave out one of them here"
            raise _bad(where, "one run in a file", "a second header", remedy)
        elif isinstance(self.records[-1], End):
            remedy = "leave out what was added behind the end, or repeat the run"
            raise _bad(where, "nothing behind the end of a run", found, remedy)


def record_of(value: Mapping[str, Any], where: str = "a record") -> Record:
    """Return a record from its fields, as `model_dump` gives them. Raise DataError if they are none."""
    try:
        return adapter().validate_python(value)
    except ValidationError as error:
        raise explained(error, value, where) from None


def explained(error: ValidationError, value: object, where: str) -> DataError:
    """Return what is wrong with the record `value`, in one line."""
    if not isinstance(value, Mapping):
        return _bad(where, "one JSON object with a type", brief(value), ANEW)
    version = value.get("schema_version", value.get("schema", SCHEMA_VERSION))
    if version != SCHEMA_VERSION or type(version) is not int:
        remedy = "use the version of LeakGauge that made the records, or repeat the run"
        return _bad(where, f"schema version {SCHEMA_VERSION}", brief(version), remedy)
    if "type" not in value:
        return _bad(where, "one JSON object with a type", "none", ANEW)
    first = error.errors(include_url=False)[0]
    if first["type"].startswith("union_tag"):
        wanted = "a record of type 'header', 'cell', 'training' or 'end'"
        return _bad(where, wanted, f"type {brief(value['type'])}", ANEW)
    path = ".".join(str(part) for part in first["loc"][1:])
    wanted = first["msg"].removeprefix("Value error, ")
    found = "no such field" if first["type"] == "missing" else brief(first["input"])
    expected = f"a record of type {brief(value['type'])}, {path or 'whole'}: {wanted}"
    return _bad(where, expected, found, ANEW)


def brief(value: object) -> str:
    """Return the first characters of a value as Python writes it."""
    try:
        return f"{value!r:.{SHOWN}}"
    except (ValueError, RecursionError):
        # A whole number of more than some thousand digits, or lists within lists.
        return "a value too long to write"


def _json(line: bytes) -> object:
    """Return the value of a line of JSON, or the line if it is none."""
    try:
        return json.loads(line)
    # RecursionError: lists within lists, thousands deep.
    except (ValueError, RecursionError):
        return line[:SHOWN]


def _whole(line: bytes) -> bool:
    """Return whether a line without a newline is a JSON object, so that no crash cut it."""
    return isinstance(_json(line), dict)


def _bad(where: str, expected: str, found: str, remedy: str) -> DataError:
    return DataError(where, expected=expected, found=found, remedy=remedy)


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage inside, where many objects without cycles are made.

    Each collection visits every record read so far: 20,000 cells took 2.2 s to read with them, and 1.0 s without.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
