"""What failed, as records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leakgauge.report.lenient import mapping, text


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The step that an exception ended, its reason in one line, and the path of its traceback."""

    step: str
    reason: str
    log: str


def failure_of(record: Mapping[str, Any]) -> Failure | None:
    """Return what failed in a cell or a training, or None if nothing did."""
    found = mapping(record.get("failure"))
    if not found and text(record.get("status")) != "failed":
        return None
    return Failure(
        step=text(found.get("step")) or "audit",
        reason=text(found.get("reason")) or text(record.get("message")),
        log=text(found.get("log")),
    )
