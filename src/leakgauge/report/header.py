"""The header of a run as the report reads it: what a stranger needs to repeat the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leakgauge.report.lenient import mapping, text


@dataclass(frozen=True, kw_only=True)
class Header:
    """The facts of a run as text. A fact that is missing is the empty text."""

    command: str
    seed: str
    started: str
    versions: str
    machine: str
    specification: str


def header_of(record: Mapping[str, Any]) -> Header:
    """Return the facts of a record of type "run"."""
    versions, machine = mapping(record.get("versions")), mapping(record.get("machine"))
    return Header(
        command=text(record.get("command")),
        seed=text(record.get("seed")),
        started=text(record.get("started")),
        versions=", ".join(f"{text(name)} {text(number)}" for name, number in versions.items()),
        machine="; ".join(f"{text(name)}: {_inline(value)}" for name, value in machine.items()),
        specification=text(record.get("specification")),
    )


def _inline(value: object) -> str:
    """Return a value in words. A mapping becomes its names and values."""
    if not isinstance(value, Mapping):
        return text(value)
    return ", ".join(f"{text(name)} {text(told)}" for name, told in value.items()) or "none"
