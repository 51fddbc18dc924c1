"""Active dropout: does it protect the data? The adversary ignores the masks, draws them, optimizes them, or knows them.

CIFAR-10, labels granted. The networks are an MLP (dropout after both hidden layers), LeNet and a
small transformer. "ignored" simulates the network without dropout, like every other attack here.
"drawn anew" draws masks in each evaluation. "joint" is the Dropout Inversion Attack. "known masks"
grants the client's own masks, which is an upper bound that no adversary has.

All four are signed Adam with equal numbers of steps. "joint, second order" is `second_order` with
the masks among its variables. The control is the joint reconstruction scored against other images.
For p = 0 it is the plain one.

Quick: all ways of signed Adam on the MLP at p = 0 and 0.25 with 60 steps. On LeNet at p = 0.25
"ignored", and "joint, second order" with a shorter search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from statistics import median
from typing import Any

import torch
from common import Options, Row, run_jobs, table
from problems import chosen, images, observe, scored_beside, shortened
from torch import Tensor

import leakgauge as lg
from leakgauge import attacks
from leakgauge.federated.layers.dropout import Call, DropoutMode, Masked, drawn_masks, with_forward

NAME = "dropout"
STEPS = 600
WAYS = ("ignored", "drawn anew", "joint", "joint, second order", "known masks")
SECOND = WAYS[3]
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"depth": 3},
    "lenet": {},
    "vit": {"dim": 64, "patch": 8},
}


@dataclass(frozen=True)
class Job:
    """One update and one way to attack it."""

    network: str
    p: float
    batch: int
    how: str


def jobs_of(given: Options) -> list[Job]:
    """Return every way on the same update. Without dropout there is one. Second order runs on LeNet alone."""
    rates, sizes = (0.25, 0.0, 0.5, 0.1), (1, 4)
    if given.quick:
        found = [Job("mlp", p, 1, how) for p in (0.0, 0.25) for how in ways(p)]
        return [*found, *(Job("lenet", 0.25, 1, how) for how in ("ignored", SECOND))]
    networks = ("mlp", "lenet")
    one, four = (
        [Job(n, p, size, how) for p in rates for n in networks for how in ways(p)] for size in sizes
    )
    second = [Job("lenet", p, 1, SECOND) for p in (0.1, 0.25, 0.5)]
    return [*one, *(Job("vit", 0.25, 1, how) for how in ways(0.25)), *four, *second]


def ways(p: float) -> list[str]:
    """Return the ways of signed Adam at this dropout rate."""
    return [how for how in WAYS if how != SECOND] if p else ["ignored"]


@dataclass(frozen=True, eq=False)
class Given:
    """A forward pass with the given masks."""

    forward: Callable[..., Any]
    masks: list[Tensor]

    def __call__(self, inputs: Tensor) -> Any:
        with Masked([mask[: len(inputs)] for mask in self.masks]):
            return self.forward(inputs)


@dataclass(frozen=True, eq=False)
class Anew:
    """A forward pass that draws its own masks, like the client's."""

    forward: Callable[..., Any]

    def __call__(self, inputs: Tensor) -> Any:
        with Drawing():
            return self.forward(inputs)


class Drawing(DropoutMode):
    """A mode in which masks are drawn, although the adversary's simulation switches dropout off."""

    def answer(self, call: Call, inputs: Tensor) -> Tensor:
        assert call.shape is not None, "no network here draws masks inside attention"
        keep = (torch.rand(call.shape) >= call.p).to(inputs)
        return inputs * keep / (1 - call.p)


def setting(job: Job, given: Options) -> tuple[lg.Dataset, lg.Batch, lg.Batch, lg.Observation, Row]:
    """Return data, private batch, other images, observation, and observations with other forward passes by way."""
    data = images(given.data)
    order = torch.randperm(len(data), generator=lg.Seeds(given.seed).generator("batch")).tolist()
    builder = getattr(lg.models, job.network)
    sizes = NETWORKS[job.network] | {"dropout": job.p}
    model = lg.models.build(builder, data.domain, 10, seed=given.seed, **sizes).train()
    server, mine = lg.Server(labels=True), order[: job.batch]
    _, plain = observe(data, model, mine, server=server, seed=given.seed)
    generator = lg.Seeds(given.seed).generator("masks")
    masks = [
        (torch.rand(call.shape, generator=generator) >= call.p).float()
        for call in drawn_masks(plain, job.batch)
        if call.shape is not None
    ]
    client = with_forward(model, partial(Given, masks=masks))
    batch, seen = observe(data, client, mine, server=server, seed=given.seed)
    others = chosen(data, order[job.batch : 2 * job.batch])
    # Granted labels are without the batch's order. Granted masks have to follow the order of the labels.
    assert seen.knowledge.labels is not None, "this server grants them"
    place = batch.targets.argsort()[seen.knowledge.labels.argsort().argsort()]
    ordered = [mask[place] for mask in masks]
    views = {
        "known masks": replace(
            seen, model=with_forward(plain.model, partial(Given, masks=ordered))
        ),
        "drawn anew": replace(seen, model=with_forward(plain.model, Anew)),
    }
    return data, batch, others, replace(seen, model=plain.model), views


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it against the private batch and against other images."""
    data, batch, others, seen, views = setting(job, given)
    signed = attacks.InvertingGradients(steps=60 if given.quick else STEPS)
    joint = attacks.DropoutInversion(attack=signed)
    # The masks' mean is not quite 1 - p. A weight on it would keep second order above its tolerance.
    inner: Any = attacks.SecondOrder()
    inner = shortened(inner) if given.quick else inner
    second = attacks.DropoutInversion(attack=inner, weight=0.0, start="mean")
    attack: lg.BaseAttack = {"joint": joint, SECOND: second}.get(job.how, signed)
    guess = attack(views.get(job.how, seen), seeds=lg.Seeds(given.seed))
    row = {**vars(job), "seed": given.seed, "attack": repr(attack)}
    return row | scored_beside(data, batch, others, guess)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for head, group in groupby(rows, key):
        told = {row["how"]: row for row in group}
        controls = told.get("joint", told.get("ignored"))
        lines.append(
            [
                *head,
                *(quality(told.get(how)) for how in WAYS),
                f"{median(controls['control_psnr']):.1f}" if controls else "-",
            ]
        )
    table(
        ["network", "batch", "p", *(f"{how}, dB (residual)" for how in WAYS), "control, dB"], lines
    )


def key(row: Row) -> tuple[str, int, float]:
    """Return the fields that name a line of the table."""
    return (row["network"], row["batch"], row["p"])


def quality(row: Row | None) -> str:
    """Return the median PSNR over the images, and the residual of the way's own simulation."""
    return "-" if row is None else f"{median(row['psnr']):.1f} ({row['residual']:.0e})"


if __name__ == "__main__":
    main()
