"""GradViT, part by part, on a small vision transformer, and is it more open than a CNN of equal accuracy?

The networks are those of train_vit.py (patches of 4 pixels, and a ResNet-20 stopped at the
transformer's accuracy), in eval mode. The images are lossless test images, labels granted. All
lines of a batch have the same seed, steps and rate.

The parts are the gradient (cosine distance, its logarithm), the patch prior, and the image prior.
The image prior is BatchNorm statistics of the published ResNet-20, total variation and l2. Then
follow both priors, and both with three restarts held to their registered mean. "norms, pixels" has
the paper's distance and variables, with our default weights.

Weights, rate and distance were chosen on six test images, 100 to 105. Batches are of the first 60.
The control is the same reconstruction scored against other images of the same labels. Then the
transformer is compared with the CNN on the same images: the gradient's term alone, smoothed
matching, and closed form.

Quick: one image by all recipes and rivals, with 6 steps. If the weights are missing, networks
are untrained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import mean, median

import torch
from common import Options, Row, run_jobs, table
from controls import control_batch, every, similarity
from problems import images, observe, scored
from torch import nn
from torch.nn import functional
from train_vit import CNN, VIT, WEIGHTS, cnn, vit

import leakgauge as lg
from leakgauge.attacks import April, GradViT, SmoothedMatching

NAME = "gradvit"
REPORTED = 60
PATCH = 4
GRADIENT = GradViT(
    steps=200,
    lr=0.1,
    warmup=20,
    restarts=1,
    distance="relative",
    coordinates="cosines",
    tv=0.0,
    l2=0.0,
    batchnorm=0.0,
    patch_prior=0.0,
    patch=PATCH,
    group="none",
    start=0.25,
    reduced=1.0,
    every=20,
)
IMAGE = replace(GRADIENT, tv=5.0, l2=0.01, batchnorm=5.0)
BOTH = replace(IMAGE, patch_prior=1.0)
RECIPES: dict[str, GradViT] = {
    "norms, pixels": replace(
        GradViT(steps=200, warmup=20, restarts=1, group="none", patch=PATCH), start=0.25
    ),
    "gradient": GRADIENT,
    "+ patch prior": replace(GRADIENT, patch_prior=1.0),
    "+ image prior": IMAGE,
    "+ both": BOTH,
    "+ registered group": replace(BOTH, group="registered", restarts=3, consistency=10.0),
}
RIVALS: dict[str, lg.BaseAttack] = {
    "gradient": GRADIENT,
    "smoothed matching": SmoothedMatching(steps=200),
    "closed form": April(equations="embedding"),
}
DRAWS = {1: 4, 4: 2}
PARTS, SIDES = "parts", "sides"


@dataclass(frozen=True)
class Job:
    """One batch of one network, attacked once. `part` names its table."""

    part: str
    network: str
    size: int
    draw: int
    attack: str


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs batch by batch, so that a run that is cut compares attacks on the same batches."""
    batches = sorted((draw, size) for size, draws in DRAWS.items() for draw in range(draws))
    found = []
    for draw, size in [(0, 1)] if given.quick else batches:
        found += [Job(PARTS, "ViT", size, draw, name) for name in RECIPES]
        for name in RIVALS:
            # Attacks of the first table do not run again.
            if name not in RECIPES:
                found.append(Job(SIDES, "ViT", size, draw, name))
            found.append(Job(SIDES, "CNN", size, draw, name))
    return found


@cache
def networks(given: Options) -> tuple[lg.Dataset, dict[str, nn.Module]]:
    """Return the images and both networks. With `--quick` they are untrained if there are no weights."""
    data = images(given.data)
    found = {"ViT": vit(data.domain), "CNN": cnn(data.domain)}
    for model, file in zip(found.values(), (VIT, CNN), strict=True):
        if (WEIGHTS / file).exists():
            lg.models.load_weights(model, WEIGHTS / file)
        elif not given.quick:
            raise SystemExit(
                f"expected weights in {WEIGHTS / file}, found none. Run train_vit.py first."
            )
    return data, found


def auxiliary(given: Options) -> nn.Module | None:
    """Return the published ResNet-20 with BatchNorm statistics of CIFAR-10, or None if it is missing."""
    data, _ = networks(given)
    model = lg.models.build(lg.models.resnet20, data.domain, 10, seed=0)
    try:
        lg.models.load_weights(model, "cifar10_resnet20.safetensors")
    except lg.ModelError:
        if not given.quick:
            raise
        return None
    return model


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it against the private images and other images of the same labels."""
    data, found = networks(given)
    seed, model = 1000 * given.seed + job.draw, found[job.network]
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    held = torch.randperm(min(REPORTED, len(data)), generator=generator)[: job.size].tolist()
    batch, seen = observe(data, model, held, server=lg.Server(labels=True), seed=seed)
    attack = (RECIPES if job.part == PARTS else RIVALS)[job.attack]
    if given.quick and isinstance(attack, GradViT | SmoothedMatching):
        attack = replace(attack, steps=6)
    if isinstance(attack, GradViT):
        attack = replace(attack, proxy=auxiliary(given))
    losses = functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")
    row: Row = {**vars(job), "seed": seed, "loss": losses.tolist(), "attack_name": job.attack}
    plan = attack.plan(seen)
    if isinstance(plan, lg.Inapplicable):
        return row | {"inapplicable": plan.reason}
    guess = attack(seen, seeds=lg.Seeds(seed))
    control = control_batch(data, held, generator)
    told = scores(data, control, guess)
    aside = {f"control_{name}": told[name] for name in ("psnr", "ssim", "lpips")}
    named = replace(attack, proxy=None) if isinstance(attack, GradViT) else attack
    return row | {"configuration": repr(named)} | scores(data, batch, guess) | aside


def scores(data: lg.Dataset, batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return PSNR, SSIM, LPIPS if its weights are found, and blockiness of reconstruction and originals."""
    found = guess.inputs[lg.metrics.assign(batch.inputs, guess.inputs)].clamp(0, 1)
    lpips = lg.models.lpips_squeeze()(batch.inputs, found) if lg.models.has_lpips() else None
    return (
        scored(data, batch, guess)
        | similarity(batch, guess)
        | {
            "lpips": [] if lpips is None else lpips.tolist(),
            "blockiness": lg.metrics.blockiness(found, patch=PATCH).tolist(),
            "blockiness_originals": lg.metrics.blockiness(batch.inputs, patch=PATCH).tolist(),
        }
    )


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    parts = [row for row in rows if row["part"] == PARTS]
    show(parts, ["B", "batches", "recipe"], key)
    shared = [row for row in parts if row["attack_name"] in RIVALS]
    print()
    sides = shared + [row for row in rows if row["part"] == SIDES]
    show(sides, ["B", "batches", "attack, network"], side)
    for row in {row["inapplicable"]: row for row in sides if "inapplicable" in row}.values():
        print(f"{row['attack_name']}, {row['network']}, batch {row['size']}: {row['inapplicable']}")


FIGURES = ("PSNR, dB", "control", "SSIM", "control", "LPIPS", "control", "blockiness", "originals")


def show(rows: list[Row], headings: list[str], order: object) -> None:
    """Print one table, with a line for each batch size and attack."""
    assert callable(order), "a key to sort by"
    lines = []
    for head, group in groupby(sorted(rows, key=order), order):
        some = [row for row in group if "inapplicable" not in row]
        if some:
            lines.append([head[0], len(some), head[2], *figures(some)])
    table([*headings, *FIGURES, "residual", "seconds"], lines)


def figures(some: list[Row]) -> list[str]:
    """Return means over examples, and the medians over batches of residual and seconds."""
    texts = []
    for name, digits in (("psnr", 1), ("ssim", 3), ("lpips", 3)):
        for told in (name, f"control_{name}"):
            values = every(some, told)
            texts.append(f"{mean(values):.{digits}f}" if values else "-")
    texts += [f"{mean(every(some, n)):.2f}" for n in ("blockiness", "blockiness_originals")]
    texts.append(f"{median(row['residual'] for row in some):.2g}")
    return [*texts, f"{median(row['seconds'] for row in some):.1f}"]


def key(row: Row) -> tuple[int, int, str]:
    """Return the fields that name a line of the first table."""
    return (row["size"], list(RECIPES).index(row["attack_name"]), row["attack_name"])


def side(row: Row) -> tuple[int, int, str]:
    """Return the fields that name a line of the second table."""
    name = row["attack_name"]
    return (row["size"], list(RIVALS).index(name), f"{name}, {row['network']}")


if __name__ == "__main__":
    main()
