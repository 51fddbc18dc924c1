"""What a prior adds to gradient matching, by network, batch and noise, beside the control.

The networks are LeNet (sigmoid, weights from U(-0.5, 0.5)) and an untrained ResNet-20 in eval mode.
Batches have 1 and 4 examples, labels granted. The gradient is plain, or has Gaussian noise of std
0.03. That is about a tenth of the norm of either gradient. The control is the same reconstruction
scored against other images.

Every line matches by cosine distance in the same number of steps. These are signed Adam on pixels,
or Adam on the weights of the deep image prior. Feature statistics are those of SqueezeNet 1.1
(ImageNet) on public images, and of the trained ResNet-20's BatchNorm. Images of the training split
and photographs chose weights and rates. None of them is attacked here.

Quick: one noisy batch of 2 on LeNet by every prior, with 5 steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import mean, median

import torch
from common import CIFAR, Options, Row, run_jobs, table
from controls import control_batch, similarity
from problems import images, lenet, observe, scored
from torch import nn

import leakgauge as lg
from leakgauge.inversion import (
    BatchStatistics,
    ColorVariation,
    Cosine,
    DeepPrior,
    Direct,
    FeatureStatistics,
    GradientMatching,
    IsotropicVariation,
    Known,
    LangevinAdam,
    Orthogonality,
    SignedAdam,
    Term,
    TotalVariation,
)
from leakgauge.metrics.squeezenet import SqueezeNet

NAME = "priors"
NOISE = 0.03
STEPS = {"lenet": 300, "resnet20": 80}
DRAWS = {("lenet", 1): 3, ("lenet", 4): 2, ("resnet20", 1): 1, ("resnet20", 4): 1}
REPORTED = 60
"""Batches are of the first 60 test images."""
PUBLIC = range(1000, 1200)
"""Images of the training split on which the adversary measures features. Earlier ones chose the weights."""
ANISOTROPIC = {"lenet": 0.03, "resnet20": 0.1}
ISOTROPIC = {"lenet": 0.03, "resnet20": 0.3}
COLOR = {"lenet": 0.03, "resnet20": 0.1}
FEATURES = {"lenet": 0.01, "resnet20": 0.1}
NORMALIZED = {"lenet": 0.01, "resnet20": 0.1}
APART = 0.1
RATE = 1e-2


@dataclass(frozen=True)
class Job:
    """One batch of one network under one noise, attacked with one prior."""

    network: str
    size: int
    std: float
    draw: int
    prior: str


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs batch by batch, so that a run that is cut compares priors on the same batches."""
    weights = bool(os.environ.get("LEAKGAUGE_DATA"))
    known = [prior for prior in PRIORS if weights or "Net" not in prior]
    if given.quick:
        return [Job("lenet", 2, NOISE, 0, prior) for prior in (NONE, *known, DEEP)]
    cells = sorted((draw, *cell) for cell, draws in DRAWS.items() for draw in range(draws))
    return [
        Job(network, size, std, draw, prior)
        for draw, network, size in cells
        for std in (0.0, NOISE)
        for prior in (NONE, *known, DEEP)
        if size > 1 or "orthogonality" not in prior
    ]


@cache
def problem(given: Options, name: str) -> tuple[lg.Dataset, nn.Module]:
    """Return the images and the untrained network."""
    data = images(given.data)
    if name == "lenet":
        return data, lenet(data, 0)
    return data, lg.models.build(lg.models.resnet20, data.domain, 10, seed=0)


@cache
def squeezed() -> FeatureStatistics:
    """Return the statistics of SqueezeNet's features on public images."""
    public = lg.data.npz(CIFAR, split="train")
    with torch.random.fork_rng(devices=[]):
        network = SqueezeNet()
    name = "imagenet_squeezenet1_1.safetensors"
    lg.models.load_weights(network, name, unread=("classifier.",))
    scale = lg.models.Normalize.of_channels(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels=3
    )
    whole = nn.Sequential(scale, network).eval()
    return FeatureStatistics.measured(whole, public.inputs[list(PUBLIC)], public.domain)


@cache
def trained() -> nn.Module:
    """Return the published ResNet-20."""
    domain, weights = lg.ImageDomain(3, 32, 32), "cifar10_resnet20.safetensors"
    return lg.models.build(lg.models.resnet20, domain, 10, weights=weights)


Prior = Callable[[str, lg.Observation], Term]
PRIORS: dict[str, Prior] = {
    "anisotropic TV": lambda name, seen: ANISOTROPIC[name] * TotalVariation(),
    "isotropic TV": lambda name, seen: ISOTROPIC[name] * IsotropicVariation(),
    "color TV": lambda name, seen: COLOR[name] * ColorVariation(),
    "TV + orthogonality": lambda name, seen: (
        ANISOTROPIC[name] * TotalVariation() + APART * Orthogonality()
    ),
    "TV + SqueezeNet": lambda name, seen: (
        ANISOTROPIC[name] * TotalVariation() + FEATURES[name] * squeezed()
    ),
    "TV + ResNet-20's BN": lambda name, seen: (
        ANISOTROPIC[name] * TotalVariation()
        + NORMALIZED[name] * BatchStatistics.prior(seen, trained())
    ),
}
NONE, DEEP = "none", "deep image prior"


def matching(job: Job, seen: lg.Observation, steps: int) -> GradientMatching:
    """Return the composition of objective, variables and descent."""
    objective: Term = Cosine()
    if job.prior in PRIORS:
        objective = objective + PRIORS[job.prior](job.network, seen)
    pixels = GradientMatching(
        objective=objective,
        parametrization=Direct(center=0.5, spread=0.25, box=True),
        labels=Known(),
        descent=SignedAdam(steps=steps, lr=0.1),
    )
    if job.prior != DEEP:
        return pixels
    channels, height, width = seen.domain.shape
    return replace(
        pixels,
        parametrization=DeepPrior(image=(channels, height, width)),
        descent=LangevinAdam(steps=steps, lr=RATE, warmup=min(20, steps // 2), noise=0.0),
    )


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it against the private images and other images of the same labels."""
    data, model = problem(given, job.network)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    count = min(REPORTED, len(data))
    held = torch.randperm(count, generator=generator)[: job.size].tolist()
    noise = lg.defenses.GaussianNoise(std=job.std) if job.std > 0 else None
    server = lg.Server(labels=True)
    batch, seen = observe(data, model, held, defense=noise, server=server, seed=seed)
    composed = matching(job, seen, 5 if given.quick else STEPS[job.network])
    guess = composed(seen, seeds=lg.Seeds(seed))
    control = control_batch(data, held, generator)
    row = {**vars(job), "seed": seed, "objective": repr(composed.objective)}
    told = scored(data, control, guess) | score_perception(control, guess)
    aside = {f"control_{name}": told[name] for name in METRICS if name in told}
    return row | scored(data, batch, guess) | score_perception(batch, guess) | aside


METRICS = ("psnr", "ssim", "lpips")


def score_perception(batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return SSIM after assignment, and LPIPS if its weights are found."""
    row = similarity(batch, guess)
    if not lg.models.has_lpips():
        return row
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    apart = lg.models.lpips_squeeze()(batch.inputs, guess.inputs[order])
    return row | {"lpips": apart.tolist()}


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for _, group in groupby(rows, key):
        some = list(group)
        one = some[0]
        lines.append(
            [one["network"], one["size"], one["std"], len(some), one["prior"], *figures(some)]
        )
    names = [text for metric in ("PSNR, dB", "SSIM", "LPIPS") for text in (metric, "control")]
    table(["network", "B", "noise", "batches", "prior", *names, "residual", "seconds"], lines)


def figures(some: list[Row]) -> list[str]:
    """Return means over examples, and the medians over batches of residual and seconds."""
    texts = []
    for metric, digits in zip(METRICS, (2, 3, 3), strict=True):
        for name in (metric, f"control_{metric}"):
            values = [value for row in some for value in row.get(name, [])]
            texts.append(f"{mean(values):.{digits}f}" if values else "-")
    texts.append(f"{median(row['residual'] for row in some):.2g}")
    return [*texts, f"{median(row['seconds'] for row in some):.0f}"]


def key(row: Row) -> tuple[str, int, float, int]:
    """Return the fields that name a line of the table."""
    place = [NONE, *PRIORS, DEEP].index(row["prior"])
    return (row["network"], row["size"], row["std"], place)


if __name__ == "__main__":
    main()
