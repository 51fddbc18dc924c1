"""Batches of 2, 4 and 8: what an attack of second order reads, and what the update leaves open. LeNet, labels granted.

Quick: one batch of 2 with distinct and one with equal labels. Second order and softmax unmixing
have a shorter search. L-BFGS and signed Adam have 100 steps.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import common
import problems
import torch

import leakgauge as lg
from leakgauge import attacks

METHODS: dict[str, lg.BaseAttack] = {
    "L-BFGS, layers weighted, total variation": problems.lbfgs(4000),
    "signed Adam, total variation": attacks.InvertingGradients(steps=4000),
    "second order": attacks.SecondOrder(),
    "softmax unmixing": attacks.SoftmaxUnmixing(),
}
PEER = next(iter(METHODS))
OURS = ("second order", "softmax unmixing")
QUICK: dict[str, lg.BaseAttack] = {
    "L-BFGS, layers weighted, total variation": problems.lbfgs(100),
    "signed Adam, total variation": attacks.InvertingGradients(steps=100),
    **{name: problems.shortened(METHODS[name]) for name in OURS},
}
"""The methods of a quick run, with shorter searches."""


@dataclass(frozen=True)
class Job:
    """One batch and one method. Labels are granted, without their order."""

    data: str | None
    size: int
    equal: bool
    number: int
    seed: int
    method: str


def indices(data: lg.Dataset, job: Job) -> list[int]:
    """Return examples of one class, or of different classes."""
    generator = torch.Generator().manual_seed(100 + job.number + 1000 * job.seed)
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    if job.equal:
        first = int(data.targets[order[0]])
        return [i for i in order if int(data.targets[i]) == first][: job.size]
    seen: dict[int, int] = {}
    for i in order:
        seen.setdefault(int(data.targets[i]), i)
    return list(seen.values())[: job.size]


def jobs_of(given: common.Options) -> list[Job]:
    """Return every method on every batch. Smaller batches and our methods come first, in case the run is cut."""
    sizes, numbers = ((2,), (0,)) if given.quick else ((2, 4, 8), range(5))
    jobs = [
        Job(given.data, size, equal, number, given.seed, method)
        for number in numbers
        for size in sizes
        for equal in (False, True)
        for method in METHODS
        # If every label differs, second order needs no help.
        if equal or method != "softmax unmixing"
    ]
    return sorted(jobs, key=lambda job: (job.size > 4, job.method not in OURS))


def run(job: Job, given: common.Options) -> common.Row:
    """Attack one batch and score it.

    The trajectory has evaluations, seconds and mean PSNR (dB) of each snapshot.
    """
    data = problems.images(job.data)
    seed = 1000 * job.seed + job.number
    model = problems.lenet(data, seed)
    server = lg.Server(labels=True)
    batch, seen = problems.observe(data, model, indices(data, job), server=server, seed=seed)
    attack = (QUICK if given.quick else METHODS)[job.method]
    guess = attack(seen, seeds=lg.Seeds(seed))
    truth = data.domain.to_unit(batch.inputs)
    course = []
    for snapshot in guess.trajectory:
        unit = data.domain.to_unit(snapshot.inputs).clamp(0, 1)
        order = lg.metrics.assign(truth, unit)
        mean = float(lg.metrics.psnr(truth, unit[order]).mean())
        course.append((snapshot.evaluations, snapshot.seconds, mean))
    found = guess.diagnosis
    return {
        "size": job.size,
        "equal": job.equal,
        "number": job.number,
        "method": job.method,
        **problems.scored(data, batch, guess),
        "verdict": None if found is None else found.verdict,
        "rank": None if found is None else found.rank,
        "exact": None if found is None else found.exact,
        "unknowns": None if found is None else found.unknowns,
        "course": course,
    }


def main() -> None:
    """Run the jobs and print the tables."""
    rows = common.run_jobs("batches", __doc__, jobs_of, run)
    table = []
    for size in sorted({row["size"] for row in rows}):
        for equal in (False, True):
            for method in METHODS:
                mine = [
                    r for r in rows if (r["size"], r["equal"], r["method"]) == (size, equal, method)
                ]
                if mine:
                    table.append(
                        [size, "equal" if equal else "distinct", method, *summary(mine, rows)]
                    )
    common.table(
        [
            "B",
            "labels",
            "method",
            "median dB",
            "images",
            "s to its best",
            "s to L-BFGS's best",
            "residual",
            "verdicts",
            "rank",
        ],
        table,
    )


def overtaken(row: common.Row, rows: list[common.Row]) -> float:
    """Return the seconds until the mean PSNR reaches L-BFGS's best on the same batch, or inf if it never does."""
    same = (row["size"], row["equal"], row["number"], PEER)
    peer = [r for r in rows if (r["size"], r["equal"], r["number"], r["method"]) == same]
    if not peer:
        return math.nan
    goal = max(at[2] for at in peer[0]["course"])
    return next((at[1] for at in row["course"] if at[2] >= goal), math.inf)


def summary(rows: list[common.Row], every: list[common.Row]) -> list[str]:
    """Return medians over images, seconds to the own best and to L-BFGS's best, residual, verdicts and ranks."""
    best = [max(r["course"], key=lambda at: at[2])[1] for r in rows]
    verdicts = sorted({r["verdict"] or "-" for r in rows})
    ranks = sorted({f"{r['rank']}/{r['unknowns']}" for r in rows if r["rank"]})
    return [
        f"{statistics.median(p for r in rows for p in r['psnr']):.1f}",
        str(sum(len(r["psnr"]) for r in rows)),
        f"{statistics.median(best):.0f}",
        f"{statistics.median(overtaken(r, every) for r in rows):.0f}",
        f"{statistics.median(r['residual'] for r in rows):.1e}",
        ", ".join(verdicts),
        ", ".join(ranks) or "-",
    ]


if __name__ == "__main__":
    main()
