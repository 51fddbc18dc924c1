"""The documentation of records, made from the schema.

`python -m leakgauge.records.document docs` writes it anew. docs/records.md lists the fields of each
record and of its parts, between two marks. docs/record.schema.json is the JSON Schema.
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
"""Names of the kinds of records."""
NAMES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
"""Words on the page for the types of JSON."""
LARGE = 1e15
"""Smallest magnitude of a bound that the page leaves out. Larger bounds only keep numbers exact."""


def schema_text() -> str:
    """Return the JSON Schema of a record as the text of a file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def fields_text() -> str:
    """Return the lists of all fields in Markdown: first the records, then their parts by name."""
    parts: Mapping[str, Any] = json_schema()["$defs"]
    order = [*RECORDS, *sorted(parts.keys() - set(RECORDS))]
    return "\n".join(_section(name, parts) for name in order)


def with_fields(page: str) -> str:
    """Return the page with new lists of fields between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{fields_text()}\n{END}{after}"


def write(folder: Path) -> None:
    """Write the schema, and the lists of fields on the page, into a folder."""
    page = folder / PAGE
    page.write_text(with_fields(page.read_text("utf-8")), "utf-8")
    (folder / SCHEMA).write_text(schema_text(), "utf-8")


def _section(name: str, parts: Mapping[str, Any]) -> str:
    """Return the heading, the summary and the fields of one record or part."""
    schema = parts[name]
    title = f"`{schema['properties']['type']['const']}`" if name in RECORDS else name
    fields = [
        f"- `{field}` ({_kind(each)}): {_meaning(each, parts)}"
        for field, each in schema["properties"].items()
    ]
    summary = schema["description"].split("\n\n")[0].replace("\n", " ")
    return f"### {title}\n\n{summary}\n\n" + "\n".join(fields) + "\n"


def _meaning(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Return the description of a field, or that of the field's class if pydantic left the field's own out."""
    if "description" in schema:
        return str(schema["description"])
    return str(parts[schema["$ref"].rpartition("/")[2]]["description"])


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the values that a field may have, in words."""
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
        return f"object, each value: {_inner(schema['additionalProperties'])}"
    return f"{NAMES[schema['type']]}{_range(schema)}"


def _inner(schema: Mapping[str, Any]) -> str:
    """Return the kind of items of an array or object, in words, and in brackets if they are composed."""
    words = _kind(schema)
    return f"({words})" if "anyOf" in schema or schema.get("type") in ("array", "object") else words


def _range(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a number, or that a text is not empty."""
    if schema.get("minLength"):
        return ", not empty"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = [
        f"at least {low:,}" if low is not None and low > -LARGE else "",
        f"at most {high:,}" if high is not None and high < LARGE else "",
    ]
    return "".join(f", {bound}" for bound in bounds if bound)


def main(arguments: Sequence[str]) -> None:
    """Write the documentation into the folder that is the only argument."""
    (folder,) = arguments
    write(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
