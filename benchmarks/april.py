"""APRIL at batch 1, on vision transformers with learned positions and 8 by 8 patches of 4 pixels.

The closed form runs through the first attention (the paper's) and through the patch embedding
(ours), by dimension, precision, design and readout. Each line tells whether the system is
determined, and the PSNR of the reconstruction. Then the optimization variant runs on the same
updates, with and without the term for the direction of the positional embedding's gradient.

Quick: both closed forms on one image at dimensions 64 and 96, and the optimization variant with 5
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, Literal

import torch
from common import Options, Row, run_jobs, share, table
from problems import chosen, client_of, images, scored_beside

import leakgauge as lg

NAME = "april"
EXACT = 60.0
"""Target in dB, in float64 and where the system is determined."""
DIMENSIONS = (48, 64, 96, 128, 192)
MATCHED = 96
"""Dimension of the transformers that the optimization variant attacks."""
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Job:
    """One image through one transformer, by one attack."""

    attack: str
    style: str
    readout: str
    depth: int
    dim: int
    precision: Precision
    image: int


def attacks_of(steps: int) -> dict[str, lg.BaseAttack]:
    """Return the attacks by their name in the table."""
    return {
        "attention": lg.attacks.April(equations="attention"),
        "embedding": lg.attacks.April(equations="embedding"),
        "matching": lg.attacks.AprilMatching(steps=steps, weight=0.0),
        "matching, direction": lg.attacks.AprilMatching(steps=steps),
    }


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs, three images each. Design (A) of the paper has no normalization before its first attention."""
    found = []
    pictures = range(1 if given.quick else 3)
    precisions: tuple[Precision, ...] = ("float32", "float64")
    dimensions = (64, 96) if given.quick else DIMENSIONS
    for style, attack in (
        ("plain", "attention"),
        ("plain", "embedding"),
        ("pre_norm", "embedding"),
    ):
        for readout, depth in (("mean", 2), ("class_token", 2), ("class_token", 1)):
            for precision in precisions:
                for dim in dimensions if depth == 2 else (MATCHED,):
                    found += [
                        Job(attack, style, readout, depth, dim, precision, i) for i in pictures
                    ]
    for attack in ("matching", "matching, direction"):
        for style in ("plain", "pre_norm"):
            found += [Job(attack, style, "mean", 2, MATCHED, "float32", i) for i in pictures]
    return found


def run(job: Job, given: Options) -> Row:
    """Attack one update. The control is this reconstruction against the next image."""
    data, seeds = images(given.data), lg.Seeds(given.seed)
    dtype = torch.float32 if job.precision == "float32" else torch.float64
    model = lg.models.build(
        lg.models.vit,
        data.domain,
        10,
        seed=given.seed,
        dim=job.dim,
        depth=job.depth,
        style=job.style,
        readout=job.readout,
    )
    batch, other = (chosen(data, [i], dtype) for i in (job.image, (job.image + 1) % len(data)))
    seen = lg.Server().observe(client_of(data, model.to(dtype)), batch, seeds=seeds)
    attack = attacks_of(5 if given.quick else 300)[job.attack]
    guess = attack(seen, seeds=seeds)
    row: Row = {**vars(job), "seed": given.seed, "message": guess.message}
    return row | scored_beside(data, batch, other, guess)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print_rows([row for row in rows if not row["attack"].startswith("matching")])
    determined = [row for row in rows if row["precision"] == "float64" and certain(row)]
    exact = share(row["psnr"][0] >= EXACT for row in determined)
    print(f"float64 and determined: {exact} have at least {EXACT:g} dB")
    print()
    print_rows([row for row in rows if row["attack"].startswith("matching")])


def certain(row: Row) -> bool:
    """Return whether the attack itself says that the patches are determined."""
    return "the patches are determined" in row["message"]


def numbers(rows: list[Row], name: str) -> list[float]:
    """Return one value for each row."""
    return [row[name][0] for row in rows]


def key_of(*names: str) -> Callable[[Row], tuple[Any, ...]]:
    """Return a function that reads these fields of a row."""
    return lambda row: tuple(row[name] for name in names)


def print_rows(rows: list[Row]) -> None:
    """Print one line for each attack, design, precision and dimension."""
    names = ("attack", "style", "readout", "depth", "precision", "dim")
    groups = [list(group) for _, group in groupby(rows, key_of(*names))]
    table(
        [*names, "determined", "median dB", "least dB", "control dB", "labels right", "s"],
        [
            [
                *key_of(*names)(group[0]),
                share(map(certain, group)),
                f"{median(numbers(group, 'psnr')):.1f}",
                f"{min(numbers(group, 'psnr')):.1f}",
                f"{median(numbers(group, 'control_psnr')):.1f}",
                share(label == 1.0 for label in numbers(group, "label")),
                f"{median(row['seconds'] for row in group):.1f}",
            ]
            for group in groups
        ],
    )


if __name__ == "__main__":
    main()
