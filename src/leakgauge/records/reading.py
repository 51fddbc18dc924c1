"""Reading of records from disk. A file may come from anybody, so sizes are limited and each message is one line."""

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
"""Largest file of records, in bytes: 4 GiB."""
LONGEST_LINE = 64 * 2**20
"""Longest line, in bytes: 64 MiB."""
SHOWN = 40
"""Number of bytes of a damaged line that a message shows."""
ANEW = "repeat the run: the records were changed or cut"
"""Remedy for a damaged line."""
HEADED = "the header of a run as its first line, of type 'header'"
"""What the first line must be."""


def read(path: str | Path) -> list[Record]:
    """Return the records of a file `records.jsonl`, in the order in which they were finished.

    A crash can cut the last line. If the last line has no newline and is not a whole record, it is
    left out: it was not finished. A run that was killed has no `End`.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read, is too large, or is of another schema version. It is
            also raised if a line is damaged, or if the file is not one run: one header first, and
            nothing after the end.

    Example:
        >>> import tempfile
        >>> import leakgauge as lg
        >>> digits = lg.data.digits()
        >>> model = lg.models.build(lg.models.mlp, digits.domain, 10)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=digits, model=model, attacks=attacks)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = lg.audit(case, out=f"{folder}/run")
        ...     [record.type for record in lg.records.read(f"{folder}/run/records.jsonl")]
        ['header', 'cell', 'end']
    """
    path = Path(path)
    name = path.name
    expected = "a readable records file in the run's folder"
    try:
        check_file(path, name, most=MOST_BYTES, expected=expected, error=DataError)
    except DataError as error:
        remedy = "run `leakgauge audit` first, or name the folder that it wrote"
        raise _error(name, error.expected, error.found.lower(), remedy) from None
    reader = Reader(name)
    try:
        with path.open("rb") as stream, uncollected():
            while line := stream.readline(LONGEST_LINE + 1):
                reader.add(line)
    except OSError as error:
        raise _error(name, "a readable file", reason(error).lower(), "check its rights") from None
    if not reader.records:
        remedy = "run the audit again, since it was killed before it wrote a whole line, or the file was emptied"
        raise _error(name, HEADED, "no records", remedy)
    return reader.records


@dataclass
class Reader:
    """A reader of records, which receives the file line by line.

    Args:
        name: Name of the file, for messages.
        records: The records that were read so far.
        number: Number of lines that were read so far.
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
            found = "a longer line"
            raise _error(where, f"a line of at most {LONGEST_LINE:,} bytes", found, ANEW)
        try:
            record = adapter().validate_json(line)
        except ValidationError as error:
            if line.endswith(b"\n") or _is_object(line):
                raise explain(error, _parse(line), where) from None
            return
        self._check_place(record, where)
        self.records.append(record)

    def _check_place(self, record: Record, where: str) -> None:
        """Raise DataError if a record cannot follow the records before it in the file of one run."""
        found = f"a line of type {record.type!r}"
        if not self.records:
            if not isinstance(record, Header):
                raise _error(where, HEADED, found, "put the header back, or repeat the run")
        elif isinstance(record, Header):
            remedy = (
                "keep each run in its own folder, and remove one of the two runs from this file"
            )
            raise _error(where, "one run in a file", "a second header", remedy)
        elif isinstance(self.records[-1], End):
            remedy = "leave out the lines after the end, or repeat the run"
            raise _error(where, "nothing after the end of a run", found, remedy)


def record_of(value: Mapping[str, Any], where: str = "a record") -> Record:
    """Return a record from a mapping of its fields, as `model_dump` gives them.

    Args:
        value: The fields by name. `type` tells the kind of the record.
        where: Where the fields come from, for messages.

    Raises:
        DataError: The fields do not form a record.

    Example:
        >>> from leakgauge.records import End, record_of
        >>> end = End(
        ...     completed=1, planned=1, trainings_completed=0, trainings_planned=0,
        ...     failed=0, interrupted=False, seconds=2.5,
        ... )
        >>> record_of(end.model_dump()) == end
        True
    """
    try:
        return adapter().validate_python(value)
    except ValidationError as error:
        raise explain(error, value, where) from None


def explain(error: ValidationError, value: object, where: str) -> DataError:
    """Return the error for a value that is not a record. Its message is one line."""
    if not isinstance(value, Mapping):
        return _error(where, "one JSON object with a field 'type'", shorten(value), ANEW)
    version = value.get("schema_version", value.get("schema", SCHEMA_VERSION))
    if version != SCHEMA_VERSION or type(version) is not int:
        remedy = "use the version of LeakGauge that made the records, or repeat the run"
        return _error(where, f"schema version {SCHEMA_VERSION}", shorten(version), remedy)
    if "type" not in value:
        return _error(where, "one JSON object with a field 'type'", "none", ANEW)
    first = error.errors(include_url=False)[0]
    if first["type"].startswith("union_tag"):
        wanted = "a record of type 'header', 'cell', 'training' or 'end'"
        return _error(where, wanted, f"type {shorten(value['type'])}", ANEW)
    path = ".".join(str(part) for part in first["loc"][1:])
    wanted = first["msg"].removeprefix("Value error, ")
    found = "no field of this name" if first["type"] == "missing" else shorten(first["input"])
    expected = f"a record of type {shorten(value['type'])}, {path or 'whole'}: {wanted}"
    return _error(where, expected, found, ANEW)


def shorten(value: object) -> str:
    """Return the first characters of the repr of a value."""
    try:
        return f"{value!r:.{SHOWN}}"
    except (ValueError, RecursionError):
        # The value is a whole number of thousands of digits, or consists of deeply nested lists.
        return "a value that is too long to show"


def _parse(line: bytes) -> object:
    """Return the value of a line of JSON, or the first bytes of the line if it is not valid."""
    try:
        return json.loads(line)
    # Lists that are nested thousands deep raise a RecursionError.
    except (ValueError, RecursionError):
        return line[:SHOWN]


def _is_object(line: bytes) -> bool:
    """Return whether a line is a whole JSON object. If it has no newline, it was then not cut by a crash."""
    return isinstance(_parse(line), dict)


def _error(where: str, expected: str, found: str, remedy: str) -> DataError:
    """Return a DataError from its four parts."""
    return DataError(where, expected=expected, found=found, remedy=remedy)


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn off garbage collection inside the block, which makes many objects without cycles.

    Each collection visits every record that was read so far. With garbage collection, 20,000 cells
    took 2.2 s to read. Without it they took 1.0 s.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
