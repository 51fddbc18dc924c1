"""Defenses of the data: ATS, and dropout of pixels and patches. LeNet, labels granted, without their order.

naive: second order, which takes what the client trained on for the data. adaptive: the attack that knows the defense,
on the same search. The control is the same guess scored against other images of the same labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import mean

import torch
from common import (
    Options,
    Row,
    header,
    images,
    lenet,
    measure,
    observe,
    options,
    reconstructed,
    scored,
    table,
)
from controls import beside_control, every

import leakgauge as lg
from leakgauge import attacks, defenses

NAME = "data_defenses"
DRAWS = 3
DEFENSES: dict[str, tuple[lg.Defense | None, type | None]] = {
    "none": (None, None),
    "ats 3-1-7+43-18-18": (defenses.ATS(), attacks.TransformationInversion),
    "ats 43-18-18": (defenses.ATS(policies="43-18-18"), attacks.TransformationInversion),
    "pixel_dropout 0.3": (defenses.PixelDropout(share=0.3), attacks.Inpainting),
    "pixel_dropout 0.7": (defenses.PixelDropout(share=0.7), attacks.Inpainting),
    "patch_dropout 0.3": (defenses.PatchDropout(share=0.3), attacks.Inpainting),
    "patch_dropout 0.6": (defenses.PatchDropout(share=0.6), attacks.Inpainting),
}


@dataclass(frozen=True)
class Job:
    """One batch under one defense, by who does not know it or who does."""

    defense: str
    size: int
    draw: int
    known: bool


def jobs_of(given: Options) -> list[Job]:
    """Draw by draw, so that a run that is cut has every cell."""
    return [
        Job(name, size, draw, known)
        for draw in range(1 if given.quick else DRAWS)
        for size in ((1,) if given.quick else (1, 2))
        for name, (_, adaptive) in DEFENSES.items()
        for known in ((False, True) if adaptive else (False,))
    ]


def run(job: Job, given: Options) -> Row:
    """The attack, scored, beside its control."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    held = list({int(data.targets[i]): i for i in order}.values())[: job.size]
    defense, adaptive = DEFENSES[job.defense]
    model = lenet(data, seed, classes=data.classes or 10)
    server = lg.Server(labels=True, defense=job.known)
    batch, seen = observe(
        data, model, held, defense=defense, server=server, seed=seed, classes=data.classes or 10
    )
    inner = attacks.InvertingGradients(steps=100) if given.quick else attacks.SecondOrder()
    attack = adaptive(attack=inner) if job.known and adaptive else inner
    guess, spent = reconstructed(attack, seen, lg.Seeds(seed))
    row = {**vars(job), "seed": seed, "attack": repr(attack), **spent, **scored(data, batch, guess)}
    return row | beside_control(data, held, guess, generator) | {"notes": guess.notes}


def main() -> None:
    """Run and print."""
    given = options(NAME, __doc__ or "")
    header(given)
    rows = measure(partial(run, given=given), jobs_of(given), given, name=NAME)
    rows.sort(key=key)
    lines = []
    for (size, defense, known), group in groupby(rows, key):
        some = list(group)
        lines.append([size, defense, "adaptive" if known else "naive", len(some), *figures(some)])
    headings = ["batch", "defense", "attack", "batches", "PSNR, dB", "least", "control", "SSIM"]
    table([*headings, "control"], lines)


def key(row: Row) -> tuple[int, str, bool]:
    """What a line of the table stands for."""
    return row["size"], row["defense"], row["known"]


def figures(some: list[Row]) -> list[str]:
    """Means over examples, and the least of them."""
    texts = [f"{mean(every(some, 'psnr')):.2f}", f"{min(every(some, 'psnr')):.1f}"]
    texts.append(f"{mean(every(some, 'control_psnr')):.2f}")
    return texts + [f"{mean(every(some, name)):.3f}" for name in ("ssim", "control_ssim")]


if __name__ == "__main__":
    main()
