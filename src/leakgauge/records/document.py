"""The documentation of records, made from the schema. `python -m leakgauge.records.document docs` writes it anew.

Between two marks, docs/records.md holds a table for each record and each part of one. docs/record.schema.json is the
JSON Schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leakgauge.records.schema import Record, json_schema

BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"
PAGE, SCHEMA = "records.md", "record.schema.json"
RECORDS = tuple(kind.__name__ for kind in Record.__args__)
NAMES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
LARGE = 1e15
"""Bounds from here on only keep numbers exact. A page need not say them."""


def schema_text() -> str:
    """Return the JSON Schema of a record as the text of a file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def fields_text() -> str:
    """Return the tables of all fields in Markdown: the records first, then their parts by name."""
    parts: Mapping[str, Any] = json_schema()["$defs"]
    order = [*RECORDS, *sorted(parts.keys() - set(RECORDS))]
    return "\n".join(_section(name, parts) for name in order)


def with_fields(page: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{fields_text()}\n{END}{after}"


def write(folder: Path) -> None:
    """Write the schema, and the tables of the page, in a folder."""
    page = folder / PAGE
    page.write_text(with_fields(page.read_text("utf-8")), "utf-8")
    (folder / SCHEMA).write_text(schema_text(), "utf-8")


def _section(name: str, parts: Mapping[str, Any]) -> str:
    schema = parts[name]
    title = f"`{schema['properties']['type']['const']}`" if name in RECORDS else name
    rows = [
        f"| `{field}` | {_cell(_kind(told))} | {_cell(_meaning(told, parts))} |"
        for field, told in schema["properties"].items()
    ]
    summary = schema["description"].split("\n\n")[0].replace("\n", " ")
    head = "| field | type and range | meaning |\n|---|---|---|"
    return f"### {title}\n\n{summary}\n\n{head}\n" + "\n".join(rows) + "\n"


def _meaning(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Return what a field means. Pydantic leaves it out where the part that the field holds says the same."""
    if "description" in schema:
        return str(schema["description"])
    return str(parts[schema["$ref"].rpartition("/")[2]]["description"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _kind(schema: Mapping[str, Any]) -> str:
    """Return in words what a field may hold."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema["type"] == "array":
        return f"array of {_inner(schema['items'])}"
    if schema["type"] == "object":
        return f"object by name of {_inner(schema['additionalProperties'])}"
    return f"{NAMES[schema['type']]}{_range(schema)}"


def _inner(schema: Mapping[str, Any]) -> str:
    """Return in words what an array or an object holds, in brackets where it may be one thing or another."""
    told = _kind(schema)
    return f"({told})" if "anyOf" in schema or schema.get("type") in ("array", "object") else told


def _range(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a number, or that a text is not empty."""
    if schema.get("minLength"):
        return ", not empty"
    low, high = schema.get("minimum"), schema.get("maximum")
    told = [
        f"at least {low:,}" if low is not None and low > -LARGE else "",
        f"at most {high:,}" if high is not None and high < LARGE else "",
    ]
    return "".join(f", {bound}" for bound in told if bound)


def main(arguments: Sequence[str]) -> None:
    """Write the documentation in the folder that is named."""
    (folder,) = arguments
    write(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
