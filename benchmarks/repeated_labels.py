"""Equal labels in a batch of 4: none, two, three and all of them. LeNet, labels granted, without their order.

Methods: second order, and softmax unmixing, which tells every example's features first and then descends as
second order does. Published (another network, a recipe that restores labels): 22.03, 19.95, 18.36, 14.03 dB.
The control is the same guess scored against other images of the same labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from statistics import mean, median

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control, every
from problems import images, lenet, observe, reconstructed, scored, shortened

import leakgauge as lg
from leakgauge import attacks

NAME = "repeated_labels"
SIZE = 4
EQUAL = (0, 2, 3, 4)
DRAWS = 5
PUBLISHED = {0: 22.03, 2: 19.95, 3: 18.36, 4: 14.03}
METHODS: dict[str, lg.BaseAttack] = {
    "softmax unmixing": attacks.SoftmaxUnmixing(),
    "second order": attacks.SecondOrder(),
}


@dataclass(frozen=True)
class Job:
    """One batch of which `equal` have one label, one method."""

    equal: int
    draw: int
    method: str


def jobs_of(given: Options) -> list[Job]:
    """Draw by draw, so that a run that is cut has every cell."""
    if given.quick:
        return [Job(equal, 0, method) for method in METHODS for equal in (0, SIZE)]
    return [
        Job(equal, draw, method) for draw in range(DRAWS) for method in METHODS for equal in EQUAL
    ]


def indices(data: lg.Dataset, equal: int, generator: torch.Generator) -> list[int]:
    """`equal` examples of one class, the others of as many other classes."""
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    classes = [int(data.targets[i]) for i in order]
    many = next(label for label in classes if classes.count(label) >= equal)
    alike = [i for i in order if int(data.targets[i]) == many][: max(1, equal)]
    seen = {int(data.targets[i]): i for i in order if int(data.targets[i]) != many}
    return alike + list(seen.values())[: SIZE - len(alike)]


def run(job: Job, given: Options) -> Row:
    """The attack, scored, beside its control."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.equal}")
    held = indices(data, job.equal, generator)
    server = lg.Server(labels=True)
    model = lenet(data, seed, classes=data.classes or 10)
    batch, seen = observe(data, model, held, server=server, seed=seed, classes=data.classes or 10)
    attack = METHODS[job.method]
    attack = shortened(attack) if given.quick else attack
    guess, spent = reconstructed(attack, seen, lg.Seeds(seed))
    row = {**vars(job), "seed": seed, "attack": repr(attack), **spent, **scored(data, batch, guess)}
    row |= beside_control(data, held, guess, generator)
    return row | {"verdict": guess.diagnosis.verdict if guess.diagnosis else None}


def main() -> None:
    """Run and print."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for (method, equal), group in groupby(rows, key):
        some = list(group)
        lines.append([method, equal, len(some), *figures(some), PUBLISHED[equal]])
    headings = ["method", "equal", "batches", "PSNR, dB", "least", "control", "SSIM", "control"]
    table([*headings, "LPIPS", "control", "CPU s", "published, dB"], lines)


def key(row: Row) -> tuple[str, int]:
    """What a line of the table stands for."""
    return row["method"], row["equal"]


def figures(some: list[Row]) -> list[str]:
    """Means over examples, the least of them, and the median of CPU seconds over batches."""
    texts = [f"{mean(every(some, 'psnr')):.2f}", f"{min(every(some, 'psnr')):.1f}"]
    texts.append(f"{mean(every(some, 'control_psnr')):.2f}")
    for name in ("ssim", "control_ssim", "lpips", "control_lpips"):
        texts += [f"{mean(every(some, name)):.3f}" if every(some, name) else "-"]
    return [*texts, f"{median(row['cpu_seconds'] for row in some):.0f}"]


if __name__ == "__main__":
    main()
