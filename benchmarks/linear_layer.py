"""What a network's first linear layer gives away in closed form: MLP of four layers, float32.

Images at batch 1 come first, with the target of 60 dB on ten of ten. Then batches up to 64 have
their own labels, or all labels equal. Last are patients' records. The blind control is the same
attack on the update of other examples. They are disjoint from those that score it.

Quick: width 256. Ten images alone, two batches of 4 and two of 16 with each kind of labels, and
records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import mean, median

import torch
from common import Options, Row, run_jobs, share, table
from problems import images, observe, scored

import leakgauge as lg

NAME = "linear_layer"
EXACT = 60.0
"""PSNR (dB) from which an example counts as read: an error below an eighth of a gray level."""
ATTACK = lg.attacks.LinearLayer()
WIDTHS = (256, 1024)
BATCHES = (4, 8, 16, 32, 64)
TABLE_WIDTH = 64


@dataclass(frozen=True)
class Job:
    """Examples `start` to `start + size - 1` of the images or of the diabetes records."""

    kind: str
    width: int
    size: int
    start: int
    labels: str = "as they are"


def jobs_of(given: Options) -> list[Job]:
    """Return ten images alone, up to five disjoint batches of each size, then records, 1 and 8 at once."""
    count = len(images(given.data))
    widths, sizes = (WIDTHS[:1], (4, 16)) if given.quick else (WIDTHS, BATCHES)
    found = [Job("image", w, 1, i) for w in widths for i in range(min(10, count))]
    for width in widths:
        for size in sizes:
            for labels in ("as they are", "all equal"):
                starts = range(0, count - size + 1, size)[: 2 if given.quick else 5]
                found += [Job("image", width, size, start, labels) for start in starts]
    found += [Job("table", TABLE_WIDTH, 1, i) for i in range(10 if given.quick else 50)]
    found += [Job("table", TABLE_WIDTH, 8, 8 * i) for i in range(2 if given.quick else 10)]
    return found


def run(job: Job, given: Options) -> Row:
    """Attack one update and its blind control's, and score both against the same examples."""
    data = images(given.data) if job.kind == "image" else lg.data.diabetes()
    if job.labels == "all equal":
        data = replace(data, targets=torch.full_like(data.targets, int(data.targets[job.start])))
    private = list(range(job.start, job.start + job.size))
    classes = data.classes or 10
    model = lg.models.build(lg.models.mlp, data.domain, classes, seed=given.seed, width=job.width)
    seeds = lg.Seeds(given.seed)
    batch, seen = observe(data, model, private, classes=classes, seed=given.seed)
    guess = ATTACK(seen, seeds=seeds)
    rest, kind = others(data, private, seeds)
    _, blind = observe(rest, model, range(job.size), classes=classes, seed=given.seed)
    control = ATTACK(blind, seeds=seeds)
    row = {"kind": job.kind, "width": job.width, "batch": job.size, "labels": job.labels}
    row |= {"first": job.start, "control_is": kind}
    return (
        row
        | score(data, batch, guess)
        | {
            f"control_{key}": value
            for key, value in score(data, batch, control).items()
            if key in ("psnr", "columns_read", "status")
        }
    )


def others(data: lg.Dataset, private: list[int], seeds: lg.Seeds) -> tuple[lg.Dataset, str]:
    """Return equally many examples that are not private, or random ones if the data has too few."""
    held = set(private)
    rest = [i for i in range(len(data)) if i not in held]
    if len(rest) >= len(private):
        return replace(data, inputs=data.inputs[rest], targets=data.targets[rest]), "other examples"
    generator = seeds.generator("decoy")
    unit = torch.rand((len(private), *data.domain.shape), generator=generator)
    inputs = data.domain.from_unit(unit)
    return replace(data, inputs=inputs, targets=data.targets[private]), "uniform random examples"


def score(data: lg.Dataset, batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return `scored`, with `found`, and for tables the fraction of columns read to 1% of their range."""
    truth, unit = data.domain.to_unit(batch.inputs), data.domain.to_unit(guess.inputs)
    order = lg.metrics.assign(truth, unit)
    row = scored(data, batch, guess) | {"found": guess.found[order].tolist()}
    if data.domain.kind == "table":
        row["columns_read"] = lg.metrics.columns_read(truth, unit[order]).tolist()
    return row


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print_images([row for row in rows if row["kind"] == "image"])
    print_tables([row for row in rows if row["kind"] == "table"])


def grouped(rows: list[Row], key: Callable[[Row], tuple[object, ...]]) -> list[list[Row]]:
    """Return groups of neighboring rows with the same key."""
    return [list(group) for _, group in groupby(rows, key)]


def each(rows: list[Row], name: str) -> list[float]:
    """Return one value for each example, of all batches."""
    return [value for row in rows for value in row[name]]


def print_images(rows: list[Row]) -> None:
    """Print one line for each width, batch size and labels."""
    table(
        [
            "width",
            "batch",
            "labels",
            "batches",
            f">= {EXACT:g} dB",
            "median dB",
            "control dB",
            "certified",
            "labels right",
            "seconds",
        ],
        [
            [
                group[0]["width"],
                group[0]["batch"],
                group[0]["labels"],
                len(group),
                share(
                    bool(found) and psnr >= EXACT
                    for found, psnr in zip(each(group, "found"), each(group, "psnr"), strict=True)
                ),
                f"{median(each(group, 'psnr')):.1f}",
                f"{median(each(group, 'control_psnr')):.1f}",
                share(row["status"] == "certified" for row in group),
                share(labels_of(group)),
                f"{median(row['seconds'] for row in group):.2f}",
            ]
            for group in grouped(rows, lambda r: (r["width"], r["batch"], r["labels"]))
        ],
    )


def labels_of(rows: list[Row]) -> list[bool]:
    """Return whether each example's label was recovered. A label that the attack left open was not."""
    return [bool(right) for row in rows for right in (row["label"] or [0.0] * row["batch"])]


def print_tables(rows: list[Row]) -> None:
    """Print one line for each batch size of records."""
    print("\nDiabetes records, columns read to within 1% of their public range:")
    table(
        ["width", "batch", "records", "columns read", "control", "certified", "seconds"],
        [
            [
                group[0]["width"],
                group[0]["batch"],
                len(each(group, "found")),
                f"{mean(each(group, 'columns_read')):.1%}",
                f"{mean(each(group, 'control_columns_read')):.1%}",
                share(row["status"] == "certified" for row in group),
                f"{median(row['seconds'] for row in group):.3f}",
            ]
            for group in grouped(rows, lambda r: (r["width"], r["batch"]))
        ],
    )


if __name__ == "__main__":
    main()
