"""FedAvg: what local steps hide, from an adversary who simulates them, ignores them, or uses a surrogate.

LeNet, CIFAR-10, labels granted; 1 to 20 local epochs, one example a step, shuffled in each epoch, or the whole
batch. "simulated" assumes the batch's own order, "order told" is granted which example came when. The control
is the simulation's guess, scored against other images. Label counts are read from the last layer, none granted.
Every attack is L-BFGS with total variation, as in batches.py, within the same number of local steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from statistics import median

import torch
from common import Options, Row, header, images, lbfgs, lenet, measure, options, scored, table
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks, inversion
from leakgauge.attacks.recipe import Recipe

NAME = "fedavg"
STEPS = 4000
"""Gradients that one attack may compute: those of its evaluations' local steps, all told."""
MOST = 600
"""Evaluations at most."""
HOW = ("simulated", "order told", "order invariant", "ignored", "surrogate")
ORDERED = ("order told", "order invariant")
"""What needs a step that sees less than the batch."""


@dataclass(frozen=True)
class Job:
    """One update and one way to attack it; a minibatch of 0 is the whole batch."""

    size: int
    minibatch: int
    rate: float
    epochs: int
    how: str
    draw: int


@dataclass(frozen=True, kw_only=True)
class Matching(Recipe):
    """L-BFGS, layers weighted, total variation."""

    steps: int

    def matching(self) -> inversion.GradientMatching:
        return lbfgs(self.steps)


def jobs_of(given: Options) -> list[Job]:
    """Every way on the same update; the order only matters where a step sees less than the batch."""
    sizes, rates, epochs, draws = [4, 8], [1e-3, 1e-2], [1, 5, 10, 20], 2
    if given.quick:
        sizes, rates, epochs, draws = [4], [1e-2], [1, 5], 1
    return [
        Job(size, minibatch, rate, count, how, draw)
        for draw in range(draws)
        for size in sizes
        for count in epochs
        for rate in rates
        for minibatch in (0, 1)
        for how in HOW
        if how not in ORDERED or (minibatch and (count > 1 or how == "order told"))
    ]


def attack_of(job: Job, training: lg.FedAvg, quick: bool) -> lg.Attack:
    """The attack, within its budget."""
    most = 60 if quick else MOST
    if job.how == "ignored":
        return attacks.OneGradient(attack=Matching(steps=most))
    if job.how == "surrogate":
        return attacks.SurrogateModel(attack=Matching(steps=most // 4))
    alone = Matching(steps=min(most, STEPS // len(training.steps(job.size))))
    return attacks.OrderInvariant(attack=alone) if job.how == "order invariant" else alone


def run(job: Job, given: Options) -> Row:
    """One attack, scored, and the label counts that the last layer tells."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("batch")).tolist()
    batch = chosen(data, order[: job.size])
    others = chosen(data, order[job.size : 2 * job.size])
    training = lg.FedAvg(
        epochs=job.epochs,
        minibatch=job.minibatch or None,
        learning_rate=job.rate,
        shuffle=job.minibatch > 0,
    )
    client = lg.Client(
        model=lenet(data, seed),
        loss=functional.cross_entropy,
        domain=data.domain,
        classes=10,
        training=training,
    )
    server = lg.Server(labels=True, order=job.how == "order told")
    seen = server.observe(client, batch, seeds=lg.Seeds(seed))
    attack = attack_of(job, training, given.quick)
    guess = attack(seen, seeds=lg.Seeds(seed))
    row = {**vars(job), "attack": repr(attack), "local_steps": len(training.steps(job.size))}
    control = scored(data, others, guess)["psnr"]
    row |= scored(data, batch, guess) | {"control_psnr": control}
    return row | {"counts": counts_read(seen, batch, seed)}


def chosen(data: lg.Dataset, indices: list[int]) -> lg.Batch:
    """These examples."""
    return lg.Batch(data.inputs[indices], data.targets[indices])


def counts_read(seen: lg.Observation, batch: lg.Batch, seed: int) -> float:
    """Share of the batch whose label is counted right by the last layer's bias, no label granted."""
    knowledge = lg.Knowledge(batch_size=len(batch))
    blind = replace(seen, knowledge=knowledge)
    generator = lg.Seeds(seed).generator("counts")
    found = inversion.Known().start(blind, generator)
    told = torch.bincount(found, minlength=10)
    truth = torch.bincount(batch.targets, minlength=10)
    return float(torch.minimum(told, truth).sum()) / len(batch)


def main() -> None:
    """Run and print."""
    given = options(NAME, __doc__ or "")
    header(given)
    jobs = jobs_of(given)
    rows = measure(partial(run, given=given), jobs, given, name=NAME)
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
                control(told[HOW[0]]),
                f"{median(counted):.0%}" if counted else "-",
            ]
        )
    ways = [f"{how}, dB (residual)" for how in HOW]
    table(
        ["B", "minibatch", "lr", "epochs", "local steps", *ways, "control, dB", "labels counted"],
        lines,
    )


def key(row: Row) -> tuple[int, str, float, int]:
    """What a line of the table stands for."""
    whole = "1" if row["minibatch"] else "B"
    return (row["size"], whole, row["rate"], row["epochs"])


def quality(rows: list[Row]) -> str:
    """Median PSNR over the images of all draws, and the median residual."""
    if not rows:
        return "-"
    values = [value for row in rows for value in row["psnr"]]
    return f"{median(values):.1f} ({median(row['residual'] for row in rows):.0e})"


def control(rows: list[Row]) -> str:
    """Median PSNR of the same guesses against other images."""
    values = [value for row in rows for value in row["control_psnr"]]
    return f"{median(values):.1f}" if values else "-"


if __name__ == "__main__":
    main()
