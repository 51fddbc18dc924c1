"""Cocktail party: what independent components and silent outputs read from linear layers, and images from features.

MLPs of two hidden layers on CIFAR-10 and MNIST come first, by batch size, with their own labels and
with equal labels. The peers are the closed form of the same gradients, independent components
alone, and the paper's descent. Then the update has noise, or is rounded to bf16.

Last, a CNN whose hidden linear layer is unmixed, and networks with only a last linear layer at
batch 1. Each image is inverted from its features. The peer is signed Adam on the same gradients.
The images that chose our settings are not among these.

Quick: an MLP of width 256 at batch 16, one defense at batch 8, and feature inversion on a CNN and
on LeNet. Signed Adam has 20 steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from statistics import median

import torch
from common import CIFAR, Options, Row, run_jobs, share, table
from problems import images, observe, scored
from time_to_quality_relu import TV, informative, model_of
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses

NAME = "cocktail_party"
EXACT, RECOGNIZABLE = 60.0, 20.0
FIRST = 1000
"""Index of the first image that is attacked. Our settings were chosen on images before it."""
SIZES = {256: (8, 16, 32, 64), 512: (8, 16, 32, 64, 128), 1024: (8, 16, 32, 64, 128, 256)}
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
OURS, ROUGH, PAPER = "cocktail party", "components alone", "components, paper's descent"
CLOSED, FEATURES, BOTH, ADAM = (
    "linear layer",
    "feature inversion",
    "features + gradient",
    "signed Adam",
)
ATTACKS: dict[str, lg.BaseAttack] = {
    OURS: attacks.CocktailParty(),
    ROUGH: attacks.CocktailParty(rounds=0),
    PAPER: attacks.CocktailParty(optimizer="adam", rounds=0),
    CLOSED: attacks.LinearLayer(),
    FEATURES: attacks.FeatureInversion(steps=300),
    BOTH: attacks.FeatureInversion(steps=300, gradients=0.1),
}
DEFENSES: dict[str, lg.Defense | None] = {
    "none": None,
    **{f"noise {std:g}": defenses.GaussianNoise(std=std) for std in (1e-5, 1e-4, 1e-3, 1e-2)},
    "bf16": defenses.Quantization(format="bf16"),
}


@dataclass(frozen=True)
class Job:
    """One attack on one update."""

    part: str
    data: str
    model: str
    width: int
    size: int
    first: int
    method: str
    labels: str = "as they are"
    defense: str = "none"
    steps: int = 0


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs: MLPs by width and batch size, then defenses, then images from features."""
    return unmixings(given) + defended(given) + inversions(given)


def unmixings(given: Options) -> list[Job]:
    """Return jobs for two disjoint batches of each size, with their own and with equal labels, by each method."""
    widths = {256: (16,)} if given.quick else SIZES
    found = []
    for width, sizes in widths.items():
        for size in sizes:
            for labels in ("as they are", "equal"):
                batches = range(1 if given.quick else 2)
                for method in (OURS, ROUGH, CLOSED):
                    found += [
                        Job("mlp", "cifar10", "mlp", width, size, k * size, method, labels)
                        for k in batches
                    ]
    if given.quick:
        return found
    found += [Job("mlp", "cifar10", "mlp", 1024, size, 0, PAPER) for size in (8, 16)]
    mnist = [(512, 64), (1024, 256)]
    return found + [
        Job("mlp", "mnist", "mlp", width, size, 0, method)
        for width, size in mnist
        for method in (OURS, ROUGH, CLOSED)
    ]


def defended(given: Options) -> list[Job]:
    """Return jobs under noise and rounding, where unmixing ends."""
    sizes, names = ((8,), ("none", "noise 0.0001")) if given.quick else ((8, 64), tuple(DEFENSES))
    return [
        Job("defense", "cifar10", "mlp", 512, size, 0, method, defense=name)
        for size in sizes
        for name in names
        for method in (OURS, CLOSED)
    ]


def inversions(given: Options) -> list[Job]:
    """Return jobs for batches on a CNN, and for one image at a time on three networks."""
    sizes, steps = ((4,), 20) if given.quick else ((4, 8), 500)
    found = [
        Job("features", "cifar10", "fedavg_cnn", 512, size, 0, method, steps=steps)
        for size in sizes
        for method in ((FEATURES, ADAM) if given.quick else (FEATURES, BOTH, ADAM))
    ]
    models = ("lenet",) if given.quick else ("lenet", "convnet", "resnet20")
    steps, count = (20, 1) if given.quick else (400, 3)
    return found + [
        Job("features", "cifar10", model, 0, 1, first, method, steps=steps)
        for model in models
        for first in informative(
            dataset(given, "cifar10"), network(given, "cifar10", model, 0), count
        )
        for method in (FEATURES, ADAM)
    ]


def dataset(given: Options, name: str) -> lg.Dataset:
    """Return the images from FIRST on, or all images of a smaller data set."""
    if name == "mnist":
        return lg.data.npz("mnist.npz", split="test")
    if given.data is None and os.environ.get("LEAKGAUGE_DATA"):
        data = lg.data.npz(CIFAR, split="train")
        return replace(data, inputs=data.inputs[FIRST:], targets=data.targets[FIRST:])
    return images(given.data)


def network(given: Options, data: str, name: str, width: int) -> nn.Module:
    """Return a network by its name. The ConvNet has width 16."""
    found, models = dataset(given, data), lg.models
    if name == "resnet20":
        return model_of(name, found, given.seed)
    build = partial(models.build, domain=found.domain, classes=10, seed=given.seed)
    if name == "mlp":
        return build(models.mlp, width=width, depth=3)
    if name == "fedavg_cnn":
        return build(models.fedavg_cnn, width=width, channels=16, mean=MEAN, std=STD)
    return build(models.lenet) if name == "lenet" else build(models.convnet, width=16)


def attack_of(job: Job) -> lg.BaseAttack:
    """Return an attack by its name. Signed Adam has the weight of total variation that suits the network."""
    if job.method == ADAM:
        return attacks.InvertingGradients(steps=job.steps, tv=TV.get(job.model, 1e-4))
    return ATTACKS[job.method]


def run(job: Job, given: Options) -> Row:
    """Attack one update. Labels are granted only where images are inverted from features."""
    data = dataset(given, job.data)
    if job.labels == "equal":
        data = replace(data, targets=torch.full_like(data.targets, int(data.targets[job.first])))
    batch, seen = observe(
        data,
        network(given, job.data, job.model, job.width),
        range(job.first, job.first + job.size),
        defense=DEFENSES[job.defense],
        server=lg.Server(labels=job.part == "features"),
        seed=given.seed,
    )
    guess = attack_of(job)(seen, seeds=lg.Seeds(given.seed))
    row = {**vars(job), "seed": given.seed, "notes": guess.notes, "message": guess.message}
    return row | scored(data, batch, guess)


def main() -> None:
    """Run the jobs and print the tables."""
    name = (
        f"{CIFAR} (train, from image {FIRST}), mnist.npz"
        if os.environ.get("LEAKGAUGE_DATA")
        else None
    )
    rows = run_jobs(NAME, __doc__, jobs_of, run, data=name)
    for part, keys in (
        ("mlp", ("data", "width", "size", "labels", "method")),
        ("defense", ("size", "defense", "method")),
        ("features", ("model", "size", "method")),
    ):
        print()
        show([row for row in rows if row["part"] == part], keys)


def show(rows: list[Row], keys: tuple[str, ...]) -> None:
    """Print one line for the rows that agree in `keys`."""

    def key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in keys)

    lines = []
    for held, group in groupby(sorted(rows, key=lambda row: order(row, keys)), key):
        same = list(group)
        quality = [value for row in same for value in row["psnr"]]
        right = [bool(one) for row in same for one in (row["label"] or [0.0] * row["size"])]
        lines.append(
            [
                *held,
                share(value >= EXACT for value in quality),
                share(value >= RECOGNIZABLE for value in quality),
                f"{median(quality):.1f}",
                share(right),
                share(row["status"] == "certified" for row in same),
                f"{median(row['seconds'] for row in same):.1f}",
            ]
        )
    bars = [f">= {EXACT:g} dB", f">= {RECOGNIZABLE:g} dB"]
    table([*keys, *bars, "median dB", "labels right", "certified", "s"], lines)


def order(row: Row, keys: tuple[str, ...]) -> tuple[str | int, ...]:
    """Return a key that sorts numbers by size and names by alphabet."""
    return tuple(row[name] for name in keys)


if __name__ == "__main__":
    main()
