"""Hostile records for `fuzz.py` and a test: valid by the schema with extreme values, or valid and then damaged."""

from __future__ import annotations

import json
import random
from typing import Any

from leakgauge.records import json_schema

Random = random.Random
TEXTS = [
    *("", "none", "psnr", "dlg", "columns_read", "a.png", "../a.png", "{score}", "{0.__class__}"),
    *("<script>alert(1)</script>", "\x1b[2J", "\u202e", "\ufffd", "x" * 3000, "1e400", "a\nb", "é"),
]
REALS = [0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, -5e-324, 1e-300, 20.0, 199.999, 200.0, 1e100, -1e100]
WHOLES = [0, 1, 2, 7, 255, 2**31, 2**53]
KEYS = ["psnr", "ssim", "label", "columns_read", "lpips_squeeze", "iip_pixels", "mse", "__proto__"]
ODD = [
    *("null", "true", "-1", "1e999", "-1e999", "NaN", "Infinity", "1e308", "9" * 5000, "{}", "[]"),
    *('"\\ud800"', '"\\u0000"', "[[[[]]]]", '{"a": {"a": 1}}', "[" * 300 + "]" * 300, "2.5", '""'),
]


PARTS: dict[str, Any] = json_schema()["$defs"]
"""The schema of each record and of each part of a record, by name."""


def records(rng: Random) -> list[dict[str, Any]]:
    """Return the records of a run, each valid by the schema, with extreme values."""
    parts = PARTS
    kinds = [*["Cell"] * rng.randint(0, 5), *["Training"] * rng.randint(0, 4)]
    rng.shuffle(kinds)
    cases, defenses = rng.sample(TEXTS[1:6], 2), [_made(parts["Defense"], parts, rng, 1)]
    defenses.append(defenses[0] | {"name": "none", "repr": "none"})
    made = [_record(kind, parts, rng) for kind in ("Header", *kinds, "End")]
    for record in made:
        # There are few names, so that cells and trainings meet in one frontier.
        if "case" in record:
            record["case"] = rng.choice(cases)
            record["defense"] = rng.choice(defenses)
    return made if rng.random() < 0.9 else made[:-1]


def mutated_records(rng: Random) -> bytes:
    """Return a file of records. About half of them are valid, the others have an odd value or odd bytes."""
    lines = [json.dumps(record) for record in records(rng)]
    for _ in range(rng.choice([0, 0, 1, 1, 3])):
        i = rng.randrange(len(lines))
        lines[i] = rng.choice([_odd_value, _odd_bytes, _cut])(lines[i], rng)
    end = "\n" if rng.random() < 0.9 else ""
    return ("\n".join(lines) + end).encode("utf-8", "surrogatepass")


def _record(kind: str, parts: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Return a record of this kind."""
    size = rng.choice([1, 1, 2, 3])
    record: dict[str, Any] = _made(parts[kind], parts, rng, size)
    if kind == "Cell":
        record["batch_size"] = size
        judged = [told for told in record["verdict"]["per_example"] if told is not None]
        record["verdict"]["leaks"] = any(judged) if judged else None
    if record.get("status") == "failed":
        record["failure"] = {"step": "attack", "reason": rng.choice(TEXTS), "log": ""}
    return record


def _made(schema: dict[str, Any], parts: dict[str, Any], rng: Random, size: int) -> Any:
    """Return a value that the schema allows. Every array has one value for each of `size` examples, or is empty."""
    if "$ref" in schema:
        return _made(parts[schema["$ref"].rpartition("/")[2]], parts, rng, size)
    if "anyOf" in schema:
        return _made(rng.choice(schema["anyOf"]), parts, rng, size)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "array":
        return [
            _made(schema["items"], parts, rng, size) for _ in range(rng.choice([0, size, size]))
        ]
    if kind == "object" and "properties" in schema:
        return {k: _made(told, parts, rng, size) for k, told in schema["properties"].items()}
    if kind == "object":
        names = rng.sample(KEYS, rng.randint(0, len(KEYS)))
        return {name: _made(schema["additionalProperties"], parts, rng, size) for name in names}
    if kind == "string":
        return rng.choice(TEXTS[1:] if schema.get("minLength") else TEXTS)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    low, high = schema.get("minimum", -1e100), schema.get("maximum", 1e100)
    values: list[Any] = [v for v in (WHOLES if kind == "integer" else REALS) if low <= v <= high]
    return rng.choice(values)


def _odd_value(line: str, rng: Random) -> str:
    """Return the line with one of its values replaced by an odd one."""
    places = [i for i, c in enumerate(line) if c == ":"]
    at = rng.choice([*places, len(line) - 1]) + 1
    end = min((line.find(c, at) for c in ",}" if line.find(c, at) > 0), default=len(line))
    return line[:at] + rng.choice(ODD) + line[end:]


def _odd_bytes(line: str, rng: Random) -> str:
    """Return the line with one character replaced by an odd one."""
    at = rng.randrange(len(line))
    return (
        line[:at] + rng.choice(["\x00", "\ud800", "}", "{", '"', "\\", "9", "\n"]) + line[at + 1 :]
    )


def _cut(line: str, rng: Random) -> str:
    """Return a beginning of the line."""
    return line[: rng.randrange(len(line))]
