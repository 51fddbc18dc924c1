"""How fast signed Adam's quality on ReLU networks: ConvNet (width 64) and trained ResNet-20, batch 1, label known.

The target is the best PSNR of signed Adam's trajectory (Inverting Gradients, 4000 steps), with
eager steps as in the peers' code. Ours is the first of `auto`'s attacks that the network allows:
`Peeling` on ConvNet, and `SmoothedMatching` on ResNet-20, by their defaults.

The images are the first whose update has a norm of at least 1, which the adversary sees. Where the
network is certain there is no gradient to match. Seconds are the process's own, on one thread, so
other load on the machine counts little.

Quick: one image on each network. Our attacks run whole, and signed Adam has 50 eager steps.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from unittest import mock

import common
import problems
from torch import nn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.inversion.evaluation import batching
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.evaluation.step import BuiltStep, DoubleBackward, choose
from leakgauge.inversion.search import running

NAME = "time_to_quality_relu"
EAGER, COMPILED = "signed Adam, eager", "signed Adam, our step"
OURS: dict[str, tuple[str, lg.BaseAttack]] = {
    "resnet20": ("smoothed matching", attacks.SmoothedMatching()),
    "convnet": ("peeling", attacks.Peeling()),
}
TV = {"resnet20": 1.0, "convnet": 1e-5}
"""Signed Adam's weight of total variation.

ResNet-20's is the best of 0.01, 0.1 and 1 at 800 steps on image 5. ConvNet's was not tuned.
"""
LEAST = 1.0
"""Smallest norm of the update of a chosen image."""


@dataclass(frozen=True)
class Job:
    """One run."""

    data: str | None
    model: str
    image: int
    seed: int
    method: str
    steps: int


def model_of(name: str, data: lg.Dataset, seed: int) -> nn.Module:
    """Return ResNet-20 with the weights under LEAKGAUGE_DATA, or an untrained ConvNet. Both are in eval mode."""
    if name == "resnet20":
        stored = "cifar10_resnet20.safetensors" if os.environ.get("LEAKGAUGE_DATA") else None
        return lg.models.build(lg.models.resnet20, data.domain, 10, seed=seed, weights=stored)
    return lg.models.build(lg.models.convnet, data.domain, 10, seed=seed)


def attack_of(job: Job) -> lg.BaseAttack:
    """Return our attack by its defaults, or signed Adam with its weight of total variation."""
    name, attack = OURS[job.model]
    if job.method == name:
        return attack
    return attacks.InvertingGradients(steps=job.steps, tv=TV[job.model])


def eager(problem: Problem, planned: int) -> tuple[BuiltStep, str]:
    """Choose the step of the peers' implementations."""
    return DoubleBackward(problem), "step: eager, as asked"


def run(job: Job) -> common.Row:
    """Attack one image. Return scores and trajectory: evaluations, seconds and PSNR of clamped values."""
    data = problems.images(job.data)
    model = model_of(job.model, data, job.seed)
    seed = 1000 * job.seed + job.image
    batch, seen = problems.observe(
        data, model, [job.image], server=lg.Server(labels=True), seed=seed
    )
    attack, chosen = attack_of(job), eager if job.method == EAGER else choose
    own = mock.patch.object(time, "perf_counter", time.process_time)
    # Both modules choose a step: for all restarts, and for one that continues alone.
    steps = [mock.patch.object(module, "choose", chosen) for module in (batching, running)]
    with steps[0], steps[1], own:
        guess = attack(seen, seeds=lg.Seeds(seed))
    truth = data.domain.to_unit(batch.inputs)
    clamped = [data.domain.to_unit(s.inputs).clamp(0, 1) for s in guess.trajectory]
    course = [
        (s.evaluations, s.seconds, float(lg.metrics.psnr(truth, unit)[0]))
        for s, unit in zip(guess.trajectory, clamped, strict=True)
    ]
    return {
        "model": job.model,
        "image": job.image,
        "seed": job.seed,
        "method": job.method,
        "steps": job.steps,
        "notes": guess.notes,
        **problems.scored(data, batch, guess),
        "course": course,
    }


def informative(data: lg.Dataset, model: nn.Module, count: int) -> list[int]:
    """Return the first images whose update has a norm of at least LEAST."""
    found: list[int] = []
    for image in range(len(data.inputs)):
        _, seen = problems.observe(data, model, [image], seed=image)
        square = sum(float(t.square().sum()) for t in seen.update.tensors.values())
        if square >= LEAST**2:
            found.append(image)
        if len(found) == count:
            break
    return found


def jobs_of(given: common.Options) -> list[Job]:
    """Return eager Adam and ours for each image, then Adam with our step. Shorter runs come first."""
    data = problems.images(given.data)
    counts = {"resnet20": 1, "convnet": 1} if given.quick else {"resnet20": 5, "convnet": 3}
    steps = 50 if given.quick else 4000
    jobs = [
        Job(given.data, name, image, given.seed, method, steps)
        for name, count in counts.items()
        for image in informative(data, model_of(name, data, given.seed), count)
        for method in (OURS[name][0], EAGER, COMPILED)
    ]
    jobs.sort(key=lambda job: (job.method == COMPILED, job.method == EAGER))
    return [job for job in jobs if job.method != COMPILED or not given.quick]


def reached(course: list[tuple[int, float, float]], level: float) -> float | None:
    """Return the seconds at the first snapshot from which on the PSNR is at least `level`, or None.

    A start counts as one evaluation, so a start of this quality is not free.
    """
    seconds = None
    for _, at, quality in reversed(course[1:]):
        if quality < level:
            break
        seconds = at
    return seconds


def attained(course: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Return the best PSNR of a trajectory, and the seconds at which it is first reached."""
    _, seconds, quality = max(course, key=lambda at: at[2])
    return quality, seconds


def compare(rows: list[common.Row]) -> list[list[str]]:
    """Return one line for each image: signed Adam's best and end, ours to the same PSNR, and ratios of seconds."""
    table = []
    for name, image in dict.fromkeys((r["model"], r["image"]) for r in rows):
        mine = {r["method"]: r for r in rows if (r["model"], r["image"]) == (name, image)}
        method = OURS[name][0]
        if EAGER not in mine or method not in mine:
            continue
        ours, theirs = mine[method]["course"], mine[EAGER]["course"]
        best, end = attained(theirs)[0], theirs[-1][2]
        cells = [name, str(image), f"{best:.1f}"]
        first = reached(ours, best)
        for adam in (EAGER, COMPILED):
            when = attained(mine[adam]["course"])[1] if adam in mine else None
            cells += ["-" if when is None else f"{when:.0f}", ratio(when, first)]
        cells += ["never" if first is None else f"{first:.1f}", f"{end:.1f}"]
        cells.append(ratio(mine[EAGER]["seconds"], reached(ours, end)))
        table.append([*cells, f"{ours[-1][2]:.1f}", f"{mine[method]['seconds']:.0f}"])
    return table


def ratio(theirs: float | None, ours: float | None) -> str:
    """Return their seconds over ours, or a dash if one of them is missing."""
    return "-" if theirs is None or ours is None else f"{theirs / ours:.1f}"


HEADINGS = (
    *("model", "image", "Adam's best dB", "eager s", "ratio", "our step s", "ratio", "ours s"),
    *("Adam's end dB", "ratio", "our end dB", "s in all"),
)


def main() -> None:
    """Run the jobs and print the tables."""
    given = common.options(NAME, __doc__ or "")
    common.header(given)
    table = compare(common.measure(run, jobs_of(given), given, name=NAME))
    common.table(HEADINGS, table)
    for name in dict.fromkeys(line[0] for line in table):
        mine = [line for line in table if line[0] == name]
        best, end = (
            statistics.median(0.0 if line[at] == "-" else float(line[at]) for line in mine)
            for at in (4, 9)
        )
        print(
            f"{name}: median ratio {best:.1f} to Adam's best, {end:.1f} to its end. "
            "0 means that ours never reaches it."
        )


if __name__ == "__main__":
    main()
