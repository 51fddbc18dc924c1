"""Defenses of the data: ATS, and dropout of pixels and patches. LeNet, labels granted, without their order.

The naive adversary runs second order, and takes the data that the client trained on for the private
data. The adaptive adversary knows the defense, and starts from the reconstruction of the same
search. The control is the same reconstruction scored against other images of the same labels.

Quick: one image without a defense, and with one strength of each defense, attacked as in the full
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from statistics import mean

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control, every
from problems import images, lenet, observe, reconstructed, scored

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.attacks.recipe import Recipe
from leakgauge.core import Progress, silent
from leakgauge.inversion import GradientMatching

NAME = "data_defenses"
DRAWS = {1: 3, 2: 1}
SEARCH = attacks.SecondOrder(warm=4, iterations=150, stages=1)
"""Shorter than the default. It reads an undefended image of LeNet at more than 60 dB."""
DEFENSES: dict[str, tuple[lg.Defense | None, type | None]] = {
    "none": (None, None),
    "ats 3-1-7+43-18-18": (defenses.ATS(), attacks.TransformationInversion),
    "ats 43-18-18": (defenses.ATS(policies="43-18-18"), attacks.TransformationInversion),
    "pixel_dropout 0.3": (defenses.PixelDropout(fraction=0.3), attacks.Inpainting),
    "pixel_dropout 0.7": (defenses.PixelDropout(fraction=0.7), attacks.Inpainting),
    "patch_dropout 0.3": (defenses.PatchDropout(fraction=0.3), attacks.Inpainting),
    "patch_dropout 0.6": (defenses.PatchDropout(fraction=0.6), attacks.Inpainting),
}


QUICK = ("none", "ats 43-18-18", "pixel_dropout 0.3", "patch_dropout 0.3")
"""Defenses of a quick run."""


@dataclass(frozen=True)
class Job:
    """One batch under one defense."""

    defense: str
    size: int
    draw: int


@dataclass(frozen=True)
class Done(Recipe):
    """A search that returns the reconstruction of an earlier run."""

    search: Recipe
    guess: lg.Reconstruction

    def matching(self) -> GradientMatching:
        return self.search.matching()

    def __call__(
        self, observation: lg.Observation, *, seeds: lg.Seeds, progress: Progress = silent
    ) -> lg.Reconstruction:
        return self.guess


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs draw by draw, so that a run that is cut has rows of every cell."""
    draws = {1: 1} if given.quick else DRAWS
    return [
        Job(name, size, draw)
        for size, count in draws.items()
        for draw in range(count)
        for name in (QUICK if given.quick else DEFENSES)
    ]


def run(job: Job, given: Options) -> Row:
    """Run both attacks, and score each beside its control."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    held = list({int(data.targets[i]): i for i in order}.values())[: job.size]
    defense, adaptive = DEFENSES[job.defense]
    classes = data.classes or 10
    model = lenet(data, seed, classes=classes)
    batch, seen = observe(
        data,
        model,
        held,
        defense=defense,
        server=lg.Server(labels=True),
        seed=seed,
        classes=classes,
    )
    found, spent = reconstructed(SEARCH, seen, lg.Seeds(seed))
    row = {**vars(job), "seed": seed, "attack": repr(SEARCH), **spent}
    row["naive"] = scored(data, batch, found) | beside_control(data, held, found, generator)
    if adaptive is not None:
        guess, more = reconstructed(adaptive(attack=Done(SEARCH, found)), seen, lg.Seeds(seed))
        row["adaptive"] = scored(data, batch, guess) | beside_control(data, held, guess, generator)
        row["adaptive"] |= {**more, "notes": guess.notes}
    return row


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for (size, defense), group in groupby(rows, key):
        some = list(group)
        lines += [
            [size, defense, name, len(some), *figures([row[name] for row in some])]
            for name in ("naive", "adaptive")
            if name in some[0]
        ]
    headings = [
        "batch",
        "defense",
        "attack",
        "batches",
        "PSNR, dB",
        "least dB",
        "control dB",
        "SSIM",
    ]
    table([*headings, "control SSIM"], lines)


def key(row: Row) -> tuple[int, str]:
    """Return the fields that name lines of the table."""
    return row["size"], row["defense"]


def figures(some: list[Row]) -> list[str]:
    """Return means over examples, and the lowest PSNR among them."""
    texts = [f"{mean(every(some, 'psnr')):.2f}", f"{min(every(some, 'psnr')):.1f}"]
    texts.append(f"{mean(every(some, 'control_psnr')):.2f}")
    return texts + [f"{mean(every(some, name)):.3f}" for name in ("ssim", "control_ssim")]


if __name__ == "__main__":
    main()
