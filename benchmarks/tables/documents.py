"""Results of one benchmark, as its JSON file holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """One file of results.

    Args:
        name: The file's name without `.json`. Results of `--quick` end in `-quick`.
        head: All fields of the file but the rows.
        rows: The rows.
    """

    name: str
    head: Row
    rows: list[Row]

    @property
    def benchmark(self) -> str:
        """The name of the script, without `.py`."""
        return str(self.head["benchmark"])

    @property
    def complete(self) -> bool:
        """Whether every planned row is there."""
        return bool(self.head["complete"])

    @property
    def quick(self) -> bool:
        """Whether the rows are of `--quick`, whose numbers are no results."""
        return bool(self.head["quick"])

    @property
    def commits(self) -> list[str]:
        """The commits that measured the rows, each once, in order."""
        return commits(self.rows) or [short(self.head["commit"])]


def load(name: str) -> Document:
    """Return the results of this name."""
    head = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    rows = head.pop("rows")
    return Document(name, head, rows)


def names() -> list[str]:
    """Return the names of all results, sorted."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def short(commit: str) -> str:
    """Return the first 7 digits of a commit. A `+` says that the working tree held other changes."""
    return commit[:7] + ("+" if commit.endswith("+changes") else "")


def commits(rows: Iterable[Row]) -> list[str]:
    """Return the commits of rows, each once, in order."""
    return list(dict.fromkeys(short(row["commit"]) for row in rows if "commit" in row))
