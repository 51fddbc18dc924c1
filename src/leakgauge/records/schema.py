"""The schema of a record, as one Python type and as JSON Schema."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from leakgauge.records.cell import Cell
from leakgauge.records.end import End
from leakgauge.records.header import SCHEMA_VERSION, Header
from leakgauge.records.training import Training

Record = Header | Cell | Training | End
"""One line of a file of records."""


@cache
def adapter() -> TypeAdapter[Record]:
    """Return the validator of records, which chooses the class by the field `type`.

    It is built once, since building is slow.
    """
    return TypeAdapter(Annotated[Record, Field(discriminator="type")])


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one line of `records.jsonl`.

    Example:
        >>> import leakgauge as lg
        >>> sorted(lg.records.json_schema()["discriminator"]["mapping"])
        ['cell', 'end', 'header', 'training']
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of records.jsonl of LeakGauge, version {SCHEMA_VERSION}",
        **adapter().json_schema(mode="serialization"),
    }
