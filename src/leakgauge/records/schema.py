"""The schema of a record as one type, and as JSON Schema."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from leakgauge.records.cell import Cell
from leakgauge.records.end import End
from leakgauge.records.header import SCHEMA_VERSION, Header
from leakgauge.records.training import Training

Record = Header | Cell | Training | End


@cache
def adapter() -> TypeAdapter[Record]:
    """Return what checks a record and tells its type by its field `type`. Building it takes a moment."""
    return TypeAdapter(Annotated[Record, Field(discriminator="type")])


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one line of `records.jsonl`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of records.jsonl of LeakGauge, version {SCHEMA_VERSION}",
        **adapter().json_schema(mode="serialization"),
    }
