"""GradInversion's table 1: what each part of the recipe adds, on a trained network with BatchNorm in eval mode.

The published CIFAR ResNet-20, lossless test images that chose no setting, batches of 4 and 8, labels granted. A
network that is sure of an example has next to no gradient of it: half of each batch are drawn from the examples whose
loss is at least 0.1 ("with loss": they are all that an update of this network tells of), half from the others. Each
line adds a part: gradient (cosine distance alone), fidelity (total variation, l2, BatchNorm's running statistics), the
group of trials held to their mean, and to their registered mean. All lines have the same steps, trials and seeds.
The control is the same guess scored against other images of the same labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from statistics import mean, median

import torch
from common import Options, Row, header, images, measure, options, scored, table
from controls import others_of, similarity
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.attacks import GradInversion

NAME = "grad_inversion"
REPORTED = 60
"""Batches are of the first so many test images; the rest, and no other, chose the weights."""
UNSURE = 0.1
BARE = GradInversion(
    steps=100,
    lr=0.2,
    warmup=10,
    noise=0.05,
    trials=3,
    distance="cosine",
    gradient=1.0,
    tv=0.0,
    l2=0.0,
    batchnorm=0.0,
    group="none",
    every=10,
)
FIDELITY = replace(BARE, tv=0.5, l2=1e-3, batchnorm=0.5)
RECIPES = {
    "gradient": BARE,
    "+ fidelity": FIDELITY,
    "+ lazy group": replace(FIDELITY, group="lazy", consistency=10.0),
    "+ registered group": replace(FIDELITY, group="registered", consistency=10.0),
}
DRAWS = {4: 3, 8: 1}


@dataclass(frozen=True)
class Job:
    """One batch, attacked by one recipe."""

    size: int
    draw: int
    recipe: str


def jobs_of(given: Options) -> list[Job]:
    """Batch by batch, so that a run that is cut compares recipes on the same ones."""
    if given.quick:
        return [Job(2, 0, recipe) for recipe in RECIPES]
    batches = sorted((draw, size) for size, draws in DRAWS.items() for draw in range(draws))
    return [Job(size, draw, recipe) for draw, size in batches for recipe in RECIPES]


@cache
def problem(given: Options) -> tuple[lg.Dataset, nn.Module]:
    """The images and the network; without the published weights, an untrained one."""
    data = images(given.data)
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    weights = "cifar10_resnet20.safetensors" if have else None
    return data, lg.models.build(lg.models.resnet20, data.domain, 10, seed=0, weights=weights)


def run(job: Job, given: Options) -> Row:
    """One attack, scored, beside the same guess scored against other images of the same labels."""
    data, model = problem(given)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    with torch.no_grad():
        outputs = model(data.inputs[:REPORTED])
    losses = functional.cross_entropy(outputs, data.targets[:REPORTED], reduction="none")
    chosen = halves(losses >= UNSURE, job.size, generator)
    batch = lg.Batch(data.inputs[chosen], data.targets[chosen])
    client = lg.Client(model=model, loss=functional.cross_entropy, domain=data.domain, classes=10)
    seen = lg.Server(labels=True).observe(client, batch, seeds=lg.Seeds(seed))
    attack = RECIPES[job.recipe]
    if given.quick:
        attack = replace(attack, steps=6, trials=2, every=2)
    guess = attack(seen, seeds=lg.Seeds(seed))
    others = data.targets.clone()
    others[chosen] = -1
    alike = others_of(others, batch.targets, generator)
    control = lg.Batch(data.inputs[alike], data.targets[alike])
    found = scored(data, batch, guess) | similarity(batch, guess)
    told = scored(data, control, guess)
    row = {**vars(job), "seed": seed, "attack": repr(attack), "loss": losses[chosen].tolist()}
    aside = {"control_psnr": told["psnr"], "control_ssim": similarity(control, guess)["ssim"]}
    return row | found | aside | {"notes": list(guess.notes)}


def halves(unsure: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices (size,), one half of those that are unsure, where there are so many, the rest of the others first."""
    pools = (unsure.nonzero().flatten(), (~unsure).nonzero().flatten())
    one, other = (pool[torch.randperm(len(pool), generator=generator)] for pool in pools)
    half = size // 2
    return torch.cat([one[:half], other, one[half:]])[:size]


def main() -> None:
    """Run and print."""
    given = options(NAME, __doc__ or "")
    header(given)
    rows = measure(partial(run, given=given), jobs_of(given), given, name=NAME)
    rows.sort(key=key)
    lines = []
    for head, group in groupby(rows, key):
        some = list(group)
        lines.append([head[0], len(some), some[0]["recipe"], *figures(some)])
    table(
        [
            "B",
            "batches",
            "recipe",
            "PSNR, dB",
            "control",
            "with loss",
            "control",
            "SSIM",
            "control",
            "residual",
            "seconds",
        ],
        lines,
    )


def figures(some: list[Row]) -> list[str]:
    """Means over examples, and the medians over batches of residual and seconds."""
    unsure = [
        (found, control)
        for row in some
        for loss, found, control in zip(row["loss"], row["psnr"], row["control_psnr"], strict=True)
        if loss >= UNSURE
    ]
    pairs = [
        (every(some, "psnr"), every(some, "control_psnr")),
        tuple(map(list, zip(*unsure, strict=True))) if unsure else ([], []),
    ]
    texts = [f"{mean(values):.2f}" if values else "-" for pair in pairs for values in pair]
    texts += [f"{mean(every(some, name)):.3f}" for name in ("ssim", "control_ssim")]
    texts.append(f"{median(row['residual'] for row in some):.2g}")
    return [*texts, f"{median(row['seconds'] for row in some):.0f}"]


def every(some: list[Row], name: str) -> list[float]:
    """One value for each example."""
    return [value for row in some for value in row[name]]


def key(row: Row) -> tuple[int, int]:
    """What a line of the table stands for."""
    return (row["size"], list(RECIPES).index(row["recipe"]))


if __name__ == "__main__":
    main()
