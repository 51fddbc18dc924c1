"""Inverting Gradients' table: squared distance with L-BFGS against cosine and total variation with signed Adam.

LeNet (sigmoid) and ResNet-20, untrained and trained, at batch 1: 20 lossless test images, labels
granted. Our own attack runs on each too. The published numbers are of LeNet and of a ResNet-20 four
times as wide (PUBLISHED below). The trained ResNet-20 is the published one, and LeNet is trained
here. The control is the same reconstruction scored against other images of the same label.

Quick: one image on both trained networks. Our attack runs whole, which is the headline. The paper's
two attacks have 20 steps. Without LEAKGAUGE_DATA the networks are untrained.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from statistics import mean, median

import torch
from common import CIFAR, Options, Row, run_jobs, table
from controls import beside_control, every
from problems import images, observe, reconstructed, scored
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks, inversion

NAME = "inverting_gradients"
IMAGES = 20
EPOCHS = 15
STEPS = {"lenet": 2400, "resnet20": 600}
TV = {
    ("lenet", "untrained"): 1e-2,
    ("lenet", "trained"): 1e-1,
    ("resnet20", "untrained"): 1e-1,
    ("resnet20", "trained"): 1.0,
}
"""The best power of ten on two images that are not reported."""
PUBLISHED = {
    ("lenet", "untrained"): {"L2, L-BFGS": "46.25", "cosine + TV": "18.00"},
    ("lenet", "trained"): {"L2, L-BFGS": "13.24", "cosine + TV": "18.08"},
    ("resnet20", "untrained"): {"L2, L-BFGS": "10.29", "cosine + TV": "19.83"},
    ("resnet20", "trained"): {"L2, L-BFGS": "6.90", "cosine + TV": "13.95"},
}
METHODS = ("L2, L-BFGS", "cosine + TV", "ours")


@dataclass(frozen=True)
class Job:
    """One image, one network, one method."""

    network: str
    state: str
    image: int
    method: str


def attack_of(job: Job, given: Options) -> lg.BaseAttack:
    """Return one of the paper's two attacks, or the one of ours that `auto` would run on the network."""
    steps = 20 if given.quick else STEPS[job.network]
    if job.method == "L2, L-BFGS":
        return inversion.GradientMatching(
            objective=inversion.L2(),
            parametrization=inversion.Direct(center=0.5, spread=0.25),
            labels=inversion.Known(),
            descent=inversion.LBFGS(steps=steps // 2),
        )
    if job.method == "cosine + TV":
        return attacks.InvertingGradients(steps=steps, tv=TV[job.network, job.state])
    return attacks.SecondOrder() if job.network == "lenet" else attacks.SmoothedMatching()


@cache
def model_of(network: str, state: str, given: Options) -> nn.Module:
    """Return the network in eval mode. Without LEAKGAUGE_DATA it is untrained."""
    data = images(given.data)
    trained = state == "trained" and bool(os.environ.get("LEAKGAUGE_DATA"))
    weights = "cifar10_resnet20.safetensors" if trained and network == "resnet20" else None
    builder = lg.models.lenet if network == "lenet" else lg.models.resnet20
    model = lg.models.build(builder, data.domain, 10, seed=given.seed, weights=weights)
    if trained and weights is None:
        train(model, given)
    return model


def train(model: nn.Module, given: Options) -> None:
    """Train with Adam on the 4000 lossless training images."""
    data = lg.data.npz(CIFAR, split="train")
    generator = lg.Seeds(given.seed).generator("training")
    descent = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for some in torch.split(torch.randperm(len(data), generator=generator), 64):
            loss = functional.cross_entropy(model(data.inputs[some]), data.targets[some])
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs image by image, so that a run that is cut has rows of every cell."""
    states = ("trained",) if given.quick else ("untrained", "trained")
    return [
        Job(network, state, image, method)
        for image in range(1 if given.quick else IMAGES)
        for network in STEPS
        for state in states
        for method in METHODS
    ]


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it beside its control."""
    data = images(given.data)
    seed = 1000 * given.seed + job.image
    model = model_of(job.network, job.state, given)
    with torch.no_grad():
        hits = model(data.inputs).argmax(1) == data.targets
    server = lg.Server(labels=True)
    batch, seen = observe(data, model, [job.image], server=server, seed=seed)
    attack = attack_of(job, given)
    guess, spent = reconstructed(attack, seen, lg.Seeds(seed))
    row = {
        **vars(job),
        "seed": seed,
        "attack": repr(attack),
        "accuracy": float(hits.float().mean()),
    }
    row["loss"] = float(functional.cross_entropy(model(batch.inputs), batch.targets).detach())
    control = beside_control(data, [job.image], guess, lg.Seeds(seed).generator("control"))
    return row | spent | scored(data, batch, guess) | control


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(
        key=lambda row: (row["network"], row["state"] == "trained", METHODS.index(row["method"]))
    )
    lines = []
    for (network, state, method), group in groupby(rows, key):
        some = list(group)
        published = PUBLISHED[network, state].get(method, "-")
        lines.append([network, state, method, len(some), *figures(some), published])
    headings = ["network", "state", "method", "images", "PSNR, dB", "control", "SSIM", "control"]
    table([*headings, "LPIPS", "control", "residual", "CPU s", "published, dB"], lines)


def key(row: Row) -> tuple[str, str, str]:
    """Return the fields that name a line of the table."""
    return row["network"], row["state"], row["method"]


def figures(some: list[Row]) -> list[str]:
    """Return means over images, and the medians of residual and CPU seconds."""
    texts = []
    for name, digits in (("psnr", 2), ("ssim", 3), ("lpips", 3)):
        for side in (name, f"control_{name}"):
            values = every(some, side)
            texts += [f"{mean(values):.{digits}f}" if values else "-"]
    texts += [f"{median(row['residual'] for row in some):.2g}"]
    return [*texts, f"{median(row['cpu_seconds'] for row in some):.0f}"]


if __name__ == "__main__":
    main()
