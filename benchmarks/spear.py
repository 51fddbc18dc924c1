"""Whole batches through the first linear layer and its ReLU: SPEAR and SPEAR++ on MLPs of four layers, float32.

The images are from MNIST and CIFAR-10, with labels all equal or distinct. Above batch 10, distinct
labels repeat. A batch is exact when every image has 60 dB. Then follow batches that are too large
for exact search, and defenses at batch 8, which end exactness.

Quick: both attacks at width 200 on two batches of 4 and two of 16, and SPEAR at batch 8 with and
without noise of 1e-4.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from statistics import median

import torch
from common import CIFAR, Options, Row, header, measure, options, share, table
from problems import observe, scored

import leakgauge as lg
from leakgauge import attacks, defenses

NAME = "spear"
EXACT = 60.0
"""PSNR (dB) from which an image counts as exact: an error below an eighth of a gray level."""
FILES = {"mnist": "mnist.npz", "cifar": CIFAR}
ATTACKS: dict[str, lg.BaseAttack] = {
    "spear": attacks.Spear(),
    "spear_plus_plus": attacks.SpearPlusPlus(),
    "slower steps": attacks.SpearPlusPlus(steps=320, rounds=20),
}
DEFENSES: dict[str, lg.Defense | None] = {
    "none": None,
    **{f"noise {std:g}": defenses.GaussianNoise(std=std) for std in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
    "fp16": defenses.Quantization(format="fp16"),
    "bf16": defenses.Quantization(format="bf16"),
}


QUICK = ("none", "noise 0.0001")
"""Defenses of a quick run."""


@dataclass(frozen=True)
class Job:
    """One batch: its data, the layer's width, its size, how its labels are drawn, and the number of the draw."""

    attack: str
    data: str
    width: int
    size: int
    labels: str
    draw: int
    defense: str = "none"


def jobs_of(given: Options) -> list[Job]:
    """Return both attacks to batch 24, SPEAR++ beyond it, and SPEAR under defenses, on the data that is found."""
    files = list(FILES) if os.environ.get("LEAKGAUGE_DATA") and given.data is None else ["photos"]
    widths, sizes, draws = [200, 400], [2, 4, 8, 16, 20, 24], {"spear": 10, "spear_plus_plus": 3}
    if given.quick:
        widths, sizes, draws = [200], [4, 16], {"spear": 2, "spear_plus_plus": 2}
    found = [
        Job(attack, data, width, size, labels, draw)
        for attack in draws
        for data in files
        for width in widths
        for size in sizes
        for labels in ("equal", "distinct")
        for draw in range(draws[attack])
    ]
    found += [
        Job("spear", data, 400, 8, "distinct", draw, defense)
        for defense in (QUICK if given.quick else DEFENSES)
        for data in files
        for draw in range(1 if given.quick else 5)
    ]
    if given.quick:
        return found
    found += [
        Job("spear_plus_plus", files[0], w, 64, "equal", i) for w in (400, 1000) for i in (0, 1)
    ]
    large = [(1000, 128), (2000, 128), (2000, 256)]
    return found + [Job("slower steps", files[0], w, b, "equal", 0) for w, b in large]


@cache
def examples(name: str, given: Options) -> lg.Dataset:
    """Return test images. Without $LEAKGAUGE_DATA or with --data they are other ones."""
    if name in FILES:
        return lg.data.npz(FILES[name], split="test")
    return lg.data.npz(given.data) if given.data is not None else lg.data.photos()


def run(job: Job, given: Options) -> Row:
    """Attack one update, and score it."""
    data = examples(job.data, given)
    classes = data.classes or 10
    name = f"{job.data}/{job.labels}/{job.size}/{job.draw}"
    chosen = drawn(data.targets, job, lg.Seeds(given.seed).generator(name))
    if job.labels == "equal":
        data = replace(data, targets=torch.full_like(data.targets, int(data.targets[chosen[0]])))
    seed = given.seed + job.draw
    model = lg.models.build(lg.models.mlp, data.domain, classes, seed=seed, width=job.width)
    defense = DEFENSES[job.defense]
    batch, seen = observe(data, model, chosen, defense=defense, seed=seed, classes=classes)
    guess = ATTACKS[job.attack](seen, seeds=lg.Seeds(seed))
    return {**vars(job), "seed": seed, **scored(data, batch, guess), "message": guess.message}


def drawn(targets: torch.Tensor, job: Job, generator: torch.Generator) -> list[int]:
    """Return random examples. For distinct labels, those of different classes come first."""
    order = torch.randperm(len(targets), generator=generator).tolist()
    if job.labels == "distinct":
        first: dict[int, int] = {}
        for i in order:
            first.setdefault(int(targets[i]), i)
        kinds = set(first.values())
        order = [*first.values(), *(i for i in order if i not in kinds)]
    return order[: job.size]


def main() -> None:
    """Run the jobs and print the tables."""
    given = options(NAME, __doc__ or "")
    jobs = jobs_of(given)
    kinds = sorted({FILES.get(job.data, job.data) for job in jobs})
    rows = measure(partial(run, given=given), jobs, given, name=NAME, data=", ".join(kinds))
    header(given, ", ".join(kinds))
    plain = [row for row in rows if row["defense"] == "none" and row["size"] <= 24]
    show(plain, ("attack", "data", "width", "size", "labels"))
    print()
    show([row for row in rows if row["size"] > 24], ("attack", "data", "width", "size", "labels"))
    print()
    show([row for row in rows if row["defense"] != "none"], ("defense", "data", "size"))


def show(rows: list[Row], keys: tuple[str, ...]) -> None:
    """Print one line for each value of `keys`."""

    def key(row: Row) -> tuple[object, ...]:
        return tuple(row[name] for name in keys)

    titles = ["batches exact", "images exact", "certified", "labels right", "median dB", "least dB"]
    lines = []
    for values, found in groupby(rows, key):
        group = list(found)
        psnr = [value for row in group for value in row["psnr"]]
        labels = [bool(right) for row in group for right in row["label"] or [False] * row["size"]]
        seconds = [row["seconds"] for row in group]
        lines.append(
            [
                *values,
                share(min(row["psnr"]) >= EXACT for row in group),
                share(value >= EXACT for value in psnr),
                share(row["status"] == "certified" for row in group),
                share(labels),
                f"{median(psnr):.1f}",
                f"{min(psnr):.1f}",
                f"{median(seconds):.2f}",
                f"{max(seconds):.2f}",
            ]
        )
    table([*keys, *titles, "median s", "longest s"], lines)


if __name__ == "__main__":
    main()
