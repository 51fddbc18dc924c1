"""Results of one benchmark, as its JSON file holds them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = Path(__file__).parent / "pages"
Row = dict[str, Any]
HEAD = {
    "benchmark": str,
    "complete": bool,
    "quick": bool,
    "seed": int,
    "data": str,
    "commit": str,
    "versions": dict,
    "finished": str,
    "rows": list,
}
"""The fields that each file of results has, and their types."""
COMMIT = re.compile(r"[0-9a-f]{7,40}(\+changes)?")
DATE = re.compile(r"\d{4}-\d\d-\d\dT.*")
PLAIN = re.compile(r"[\w .,;:+()/-]+")
"""Words that a page can hold as they stand, in one line and without Markdown."""


class Damaged(ValueError):
    """A file of results from which no page can be made. The message is one line."""

    def __init__(self, path: Path, expected: str, found: object) -> None:
        words = found if isinstance(found, str) else repr(found)
        words = " ".join(words.split())
        short = words if len(words) <= 200 else f"{words[:200]} ..."
        super().__init__(
            f"{path}: expected {expected}, found {short}. "
            "No page was changed. Restore the file from git, or run its benchmark again."
        )


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


def load(name: str, results: Path = RESULTS) -> Document:
    """Return the results of this name. Raise Damaged if the file is not as a benchmark writes it."""
    path = results / f"{name}.json"
    try:
        head = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Damaged(path, "a file of results", error.strerror or "no file") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(path, "a whole file of JSON", str(error)) from error
    for expected, found in wrong(name, head):
        raise Damaged(path, expected, found)
    rows = once(head.pop("rows"))
    return Document(name, head, rows)


def once(rows: Iterable[Row]) -> list[Row]:
    """Return rows without copies. Runs before 0.3.0 wrote a row twice if two parts of a run listed its job."""
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def wrong(name: str, head: object) -> Iterator[tuple[str, object]]:
    """Yield what a file of results should hold and what it holds, for each difference."""
    if not isinstance(head, dict):
        yield "one JSON object", f"a {type(head).__name__}"
        return
    for field, kind in HEAD.items():
        found = head.get(field, "nothing")
        if field not in head or not isinstance(found, kind) or (kind is int and found is True):
            yield f"the field {field!r} with a {kind.__name__}", found
            return
    own = f"{head['benchmark']}-quick" if head["quick"] else head["benchmark"]
    if own != name:
        yield f"the results of {name!r}", f"those of {own!r}"
    if (
        not re.fullmatch(r"\w+", head["benchmark"])
        or not (PAGES / f"{head['benchmark']}.py").is_file()
    ):
        yield "a benchmark with a page under tables/pages", head["benchmark"]
    versions = [head["versions"].get(each) for each in ("leakgauge", "torch", "numpy", "python")]
    for field, found, pattern in (
        ("data", head["data"], PLAIN),
        ("commit", head["commit"], COMMIT),
        ("finished", head["finished"], DATE),
        *(("versions", version, PLAIN) for version in versions),
    ):
        if not isinstance(found, str) or not pattern.fullmatch(found):
            yield f"the field {field!r} in the form {pattern.pattern}", found
    planned = head.get("planned", 1)
    if not isinstance(planned, int) or planned < 1:
        yield "'planned' to be a number of rows, at least 1", planned
    if not head["rows"]:
        yield "at least one row", "none"
    for number, row in enumerate(head["rows"]):
        if not isinstance(row, dict):
            yield f"row {number} to be an object", row
            return
        commit = row.get("commit", head["commit"])
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            yield f"row {number} with a commit in the form {COMMIT.pattern}", commit
        for field, value in numbers(row):
            if not math.isfinite(value):
                yield f"row {number} with finite numbers or null in {field!r}", value


def numbers(row: object, field: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number that a row holds, with the name of its field."""
    if isinstance(row, dict):
        for key, value in row.items():
            yield from numbers(value, f"{field}.{key}" if field else str(key))
    elif isinstance(row, list):
        for value in row:
            yield from numbers(value, field)
    elif isinstance(row, float):
        yield field, row


def names(results: Path = RESULTS) -> list[str]:
    """Return the names of all results, sorted. Raise Damaged if there are none."""
    found = sorted(path.stem for path in results.glob("*.json"))
    if not found:
        raise Damaged(results, "a folder with files of results in JSON", "none")
    return found


def short(commit: str) -> str:
    """Return the first 7 digits of a commit. A `+` says that the working tree held other changes."""
    return commit[:7] + ("+" if commit.endswith("+changes") else "")


def commits(rows: Iterable[Row]) -> list[str]:
    """Return the commits of rows, each once, in order."""
    return list(dict.fromkeys(short(row["commit"]) for row in rows if "commit" in row))
