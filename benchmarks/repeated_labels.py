"""Equal labels in a batch of 4: none, two, three and all of them. LeNet, labels granted, without their order.

The methods are second order and softmax unmixing. Softmax unmixing first reads every example's
features, and then descends like second order. Published (another network, a recipe that restores
labels): 22.03, 19.95, 18.36, 14.03 dB. The control is the same reconstruction scored against other
images of the same labels.

Quick: both methods on one batch with no and one with four equal labels, with a shorter search. A
row of the full search takes about 45 s of one core.
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
    """One batch and one method. `equal` of its examples have one label."""

    equal: int
    draw: int
    method: str


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs draw by draw, so that a run that is cut has rows of every cell."""
    if given.quick:
        return [Job(equal, 0, method) for method in METHODS for equal in (0, SIZE)]
    return [
        Job(equal, draw, method) for draw in range(DRAWS) for method in METHODS for equal in EQUAL
    ]


def indices(data: lg.Dataset, equal: int, generator: torch.Generator) -> list[int]:
    """Return `equal` examples of one class. Each of the others has a class of its own."""
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    classes = [int(data.targets[i]) for i in order]
    many = next(label for label in classes if classes.count(label) >= equal)
    alike = [i for i in order if int(data.targets[i]) == many][: max(1, equal)]
    seen = {int(data.targets[i]): i for i in order if int(data.targets[i]) != many}
    return alike + list(seen.values())[: SIZE - len(alike)]


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it beside its control."""
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
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for (method, equal), group in groupby(rows, key):
        some = list(group)
        lines.append([method, equal, len(some), *figures(some), PUBLISHED[equal]])
    headings = ["method", "equal", "batches", "PSNR, dB", "least dB", "control", "SSIM", "control"]
    table([*headings, "LPIPS", "control", "CPU s", "published, dB"], lines)


def key(row: Row) -> tuple[str, int]:
    """Return the fields that name a line of the table."""
    return row["method"], row["equal"]


def figures(some: list[Row]) -> list[str]:
    """Return means over examples, the lowest PSNR, and the median of CPU seconds over batches."""
    texts = [f"{mean(every(some, 'psnr')):.2f}", f"{min(every(some, 'psnr')):.1f}"]
    texts.append(f"{mean(every(some, 'control_psnr')):.2f}")
    for name in ("ssim", "control_ssim", "lpips", "control_lpips"):
        texts += [f"{mean(every(some, name)):.3f}" if every(some, name) else "-"]
    return [*texts, f"{median(row['cpu_seconds'] for row in some):.0f}"]


if __name__ == "__main__":
    main()
