"""The same seed on the same machine gives the same records and images, byte for byte, except times.

A small audit runs again in another process, with one worker, with two, and with another seed. The
last run must differ. The script exits with 1 if either does not hold.

Quick: the runs with two workers and with another seed, on a smaller audit.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import PHOTOS, Options, Row, header, options, save, table

from leakgauge.audit import Source, execute, in_order, plan_from, without_times
from leakgauge.records import read

NAME = "repeatability"
SPECIFICATION = """
[[cases]]
name = "LeNet"
data = {name = "photos", size = 16}
model = "lenet"
training = {name = "fedsgd", batch_size = [1, 2]}
attacks = [
    {name = "dlg", steps = 2},
    {name = "balanced_dlg", steps = 2},
    {name = "inverting_gradients", steps = 20},
]
defenses = ["none", {name = "gaussian_noise", std = 1e-3}, {name = "random_sparsification"}]

[[cases]]
name = "MLP"
data = {name = "photos", size = 16}
model = "mlp"
training = {name = "fedsgd", batch_size = [1, 4]}
attacks = ["linear_layer", {name = "auto", attacks = ["linear_layer", {name = "idlg", steps = 2}]}]
defenses = ["none", {name = "laplacian_noise", std = 1e-3}, {name = "quantization"}]

[[cases]]
name = "Records"
data = "diabetes"
model = {name = "mlp", width = 32}
training = {name = "fedsgd", batch_size = [1, 4]}
attacks = ["linear_layer"]
defenses = ["none", "top_k"]
"""
QUICK = (
    "cases.0.training.batch_size=1",
    'cases.0.attacks=[{name = "balanced_dlg", steps = 1}, {name = "inverting_gradients", steps = 5}]',
    'cases.0.defenses=["random_sparsification"]',
    "cases.1.training.batch_size=4",
    'cases.1.attacks=["linear_layer"]',
    'cases.1.defenses=["none", "laplacian_noise"]',
    "cases.2.training.batch_size=1",
)


@dataclass(frozen=True)
class Comparison:
    """A second run, and whether it must repeat the first run, which has one worker and the given seed."""

    name: str
    workers: int
    seed_offset: int = 0

    @property
    def repeats(self) -> bool:
        """Whether nothing may differ from the first run."""
        return self.seed_offset == 0


COMPARISONS = (
    Comparison("again, 1 worker", 1),
    Comparison("again, 2 workers", 2),
    Comparison("another seed, 1 worker", 1, seed_offset=1),
)


def audit(folder: Path, seed: int, workers: int, settings: tuple[str, ...]) -> None:
    """Run the specification in a process of its own, which also has its own hash seed."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run, args=(folder, seed, workers, settings))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(
            f"expected exit code 0 of an audit, found {process.exitcode}. See its error above."
        )


def run(folder: Path, seed: int, workers: int, settings: tuple[str, ...]) -> None:
    """Execute the specification. This is what the process does."""
    execute(plan_from(Source(SPECIFICATION, settings, seed)), out=folder, workers=workers)


def records(folder: Path) -> list[Any]:
    """Return the records of a run in the order of the plan, without their times."""
    return [without_times(record) for record in in_order(read(folder / "records.jsonl"))]


def pictures(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every image of a run, by its path in the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every field that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            inner = f"{path}.{key}" if path else key
            if key not in a or key not in b:
                yield inner
            else:
                yield from differences(a[key], b[key], inner)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}[{i}]")
    elif a != b:
        yield path


def compare(comparison: Comparison, first: Path, second: Path) -> Row:
    """Compare two runs, field by field and byte by byte. Name at most 20 fields that differ."""
    old, new = pictures(first), pictures(second)
    fields = list(differences(records(first), records(second)))
    return {
        "comparison": comparison.name,
        "workers": comparison.workers,
        "must_repeat": comparison.repeats,
        "records": len(records(first)),
        "fields": len(fields),
        "fields_that_differ": fields[:20],
        "images": len(old),
        "images_that_differ": sorted(
            n for n in old.keys() | new.keys() if old.get(n) != new.get(n)
        ),
    }


def identical(row: Row) -> bool:
    """Return whether nothing differs."""
    return not row["fields"] and not row["images_that_differ"]


def jobs_of(given: Options) -> tuple[Comparison, ...]:
    """Return the comparisons with the first run."""
    return COMPARISONS[1:] if given.quick else COMPARISONS


def measured(given: Options, settings: tuple[str, ...]) -> list[Row]:
    """Run the audit once, and then again for each comparison."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audit(folder / "first", given.seed, 1, settings)
        comparisons = jobs_of(given)
        for i, comparison in enumerate(comparisons):
            second = folder / str(i)
            audit(second, given.seed + comparison.seed_offset, comparison.workers, settings)
            rows.append(compare(comparison, folder / "first", second))
            complete = len(rows) == len(comparisons)
            data, planned = f"{PHOTOS}; diabetes", len(comparisons)
            save(NAME, given, rows, complete=complete, data=data, planned=planned)
    return rows


def changes(given: Options) -> tuple[str, ...]:
    """Return what the command line replaces in the specification."""
    found = []
    if given.data is not None:
        path = json.dumps(str(Path(given.data).resolve()))
        found += [f'cases.{i}.data={{name = "npz", path = {path}}}' for i in range(2)]
    return tuple(found) + (QUICK if given.quick else ())


def main() -> int:
    """Run the audits, print the table, and return the exit code."""
    given = options(NAME, __doc__ or "")
    rows = measured(given, changes(given))
    header(given, f"{PHOTOS}; diabetes")
    table(
        [
            "against the first run, 1 worker",
            "records",
            "images",
            "fields differ",
            "images differ",
            "holds",
        ],
        [
            [
                row["comparison"],
                row["records"],
                row["images"],
                row["fields"],
                len(row["images_that_differ"]),
                "yes" if identical(row) == row["must_repeat"] else "NO",
            ]
            for row in rows
        ],
    )
    for row in rows:
        if row["must_repeat"] and not identical(row):
            print(row["comparison"], *row["fields_that_differ"], *row["images_that_differ"])
    return 0 if all(identical(row) == row["must_repeat"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
