"""FedAvg: what local steps hide from an adversary that ignores them, uses a surrogate, corrects it, or unrolls them.

LeNet, CIFAR-10, labels granted, 1 to 20 local epochs. A step sees one example, shuffled in each
epoch, or the whole batch. "told" means that the order of the examples is granted. Every attack is
L-BFGS with the same vanishing prior. The two that keep a misfit keep a hundredth of the prior: the
best of 1e-1, 1e-2 and 1e-3 on draws 5 and 6.

Attacks that unroll local steps pay for each step in each evaluation, so they run up to 20 local
steps. The control is the corrected surrogate's reconstruction, scored against other images. Label
counts are recovered, without any grant.

Quick: batch 4 at rate 1e-3. "ignored" and "corrected" at 1 and 20 epochs run whole on full-batch
steps, which are the headline. The other ways run at 1 epoch with a tenth of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

import torch
from common import Options, Row, run_jobs, table
from problems import client_of, drawn_batches, images, lenet, scored_beside

import leakgauge as lg
from leakgauge import attacks
from leakgauge.analytic.label_recovery import recover_labels

NAME = "fedavg"
UNROLLED = 20
"""Largest number of local steps that an attack unrolls here."""
MISFIT = 1e-2
"""Fraction of the prior that remains if the simulation is known to be wrong."""
HOW = (
    "ignored",
    "surrogate",
    "corrected",
    "corrected, told",
    "unrolled",
    "unrolled, told",
    "order invariant",
)
HEADLINE = ("ignored", "corrected")
"""Ways of the headline. On full-batch steps they have all their steps in a quick run."""
TOLD = ("corrected, told", "unrolled, told")


@dataclass(frozen=True)
class Job:
    """One update and one way to attack it. A minibatch of 0 is the whole batch."""

    size: int
    minibatch: int
    rate: float
    epochs: int
    how: str
    draw: int


def jobs_of(given: Options) -> list[Job]:
    """Return every way on the same update. Ways that unroll steps cost most, and come last of each draw."""
    sizes, rates, epochs, draws = [4, 8], [1e-3, 1e-2], [1, 5, 10, 20], 2
    if given.quick:
        sizes, rates, epochs, draws = [4], [1e-3], [1, 20], 1
    jobs = [
        Job(size, minibatch, rate, count, how, draw)
        for draw in range(draws)
        for size in sizes
        for count in epochs
        for rate in rates
        for minibatch in (0, 1)
        for how in HOW
    ]
    jobs.sort(key=lambda job: (job.draw, job.how in HOW[4:]))
    jobs = [job for job in jobs if sensible(job)]
    if given.quick:
        return [job for job in jobs if job.epochs == 1 or headline(job)]
    return jobs


def headline(job: Job) -> bool:
    """Return whether a job belongs to the headline, which a quick run measures with all its steps."""
    return job.how in HEADLINE and not job.minibatch


def sensible(job: Job) -> bool:
    """Return whether a job makes sense: order matters only for minibatches, and unrolling has its limit."""
    steps = job.epochs * (job.size if job.minibatch else 1)
    if job.how in TOLD and not job.minibatch:
        return False
    if job.how == "order invariant" and (not job.minibatch or job.epochs == 1):
        return False
    return steps <= UNROLLED or job.how not in HOW[4:]


def attack_of(how: str, quick: bool) -> lg.BaseAttack:
    """Return the attack, within its budget."""
    few = 10 if quick else 1
    if how == "ignored":
        return attacks.OneGradient(attack=attacks.VanishingPrior(steps=600 // few, remains=MISFIT))
    if how == "surrogate":
        return attacks.SurrogateModel(
            attack=attacks.VanishingPrior(steps=150 // few, remains=MISFIT)
        )
    if how.startswith("corrected"):
        return attacks.CorrectedSurrogate(attack=attacks.VanishingPrior(steps=60 // few))
    alone = attacks.VanishingPrior(steps=300 // few)
    return attacks.OrderInvariant(attack=alone) if how == "order invariant" else alone


def run(job: Job, given: Options) -> Row:
    """Run one attack, score it, and count the labels that the last layer gives away."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    batch, others = drawn_batches(data, job.size, seed)
    training = lg.FedAvg(
        epochs=job.epochs,
        minibatch=job.minibatch or None,
        learning_rate=job.rate,
        shuffle=job.minibatch > 0,
    )
    client = client_of(data, lenet(data, seed), training=training)
    server = lg.Server(labels=True, order=job.how in TOLD)
    seen = server.observe(client, batch, seeds=lg.Seeds(seed))
    attack = attack_of(job.how, given.quick and not headline(job))
    guess = attack(seen, seeds=lg.Seeds(seed))
    row = {**vars(job), "attack": repr(attack), "local_steps": len(training.steps(job.size))}
    row |= scored_beside(data, batch, others, guess)
    return row | {"counts": counts_read(seen, batch, seed)}


def counts_read(seen: lg.Observation, batch: lg.Batch, seed: int) -> float:
    """Return the fraction of the batch whose label is counted right, without granted labels."""
    blind = replace(seen, knowledge=lg.Knowledge(batch_size=len(batch)))
    found = recover_labels(blind, seeds=lg.Seeds(seed).child("counts"))
    truth = torch.bincount(batch.targets, minlength=10)
    assert found.counts is not None
    return float(torch.minimum(found.counts, truth).sum()) / len(batch)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for head, group in groupby(rows, key):
        some = list(group)
        told = {how: [r for r in some if r["how"] == how] for how in HOW}
        counted = [r["counts"] for r in some if r["how"] == "ignored"]
        lines.append(
            [
                *head[:2],
                f"{head[2]:g}",
                head[3],
                some[0]["local_steps"],
                *(quality(told[how]) for how in HOW),
                control(told["corrected"]),
                f"{median(counted):.0%}" if counted else "-",
            ]
        )
    ways = [f"{how}, dB (residual)" for how in HOW]
    table(
        ["B", "minibatch", "lr", "epochs", "local steps", *ways, "control, dB", "labels counted"],
        lines,
    )


def key(row: Row) -> tuple[int, str, float, int]:
    """Return the fields that name a line of the table."""
    whole = "1" if row["minibatch"] else "B"
    return (row["size"], whole, row["rate"], row["epochs"])


def quality(rows: list[Row]) -> str:
    """Return the median PSNR over the images of all draws, and the median residual."""
    if not rows:
        return "-"
    values = [value for row in rows for value in row["psnr"]]
    return f"{median(values):.1f} ({median(row['residual'] for row in rows):.0e})"


def control(rows: list[Row]) -> str:
    """Return the median PSNR of the same reconstructions against other images."""
    values = [value for row in rows for value in row["control_psnr"]]
    return f"{median(values):.1f}" if values else "-"


if __name__ == "__main__":
    main()
