"""What the last layer alone gives away: every example's features, by softmax unmixing.

Networks are untrained, after 1 and 3 epochs on 4000 images, and published. Labels are all equal,
distinct, or follow Zipf's law. Gradients are in float64 and float32, rounded to bfloat16, and with
Gaussian noise. An example is read when its features' relative error is 1e-2 or less. MobileNetV1
with 1000 classes runs if its weights are found.

Quick: LeNet and ResNet-20 untrained, and the trained ResNet-20 under LEAKGAUGE_DATA, at batches of
2 and 4 with two draws. Float64, bfloat16 and withheld labels on one network.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import median

import torch
from common import CIFAR, Options, Row, run_jobs, share, table
from mobilenet import CROP, mobilenet, samples
from problems import images
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.last_layer import recover_features
from leakgauge.analytic.softmax_unmixing import Unmixed
from leakgauge.analytic.whitening import Blur

NAME = "unmixing"
READ = 1e-2
WRONG = 1e-1
"""A found example with a relative error above this was claimed wrongly."""
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lenet": lg.models.lenet,
    "convnet": lg.models.convnet,
    "resnet20": lg.models.resnet20,
}
STATES = ("untrained", "epoch 1", "epoch 3")
PRECISIONS = ("float64", "bfloat16", "noise 1e-6", "noise 1e-5", "noise 1e-4", "noise 1e-3")


@dataclass(frozen=True)
class Job:
    """One batch: the network, how its labels are drawn, its size, the gradient's precision, and the draw."""

    network: str
    labels: str
    size: int
    precision: str
    draw: int
    granted: bool = True


def jobs_of(given: Options) -> list[Job]:
    """Return float32 over all networks and sizes. Other precisions and withheld labels are at batch 4."""
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    networks = [
        f"{builder} {state}" for builder in BUILDERS for state in STATES[: 3 if have else 1]
    ]
    networks += ["resnet20 trained"] if have else []
    # An epoch of the wide ConvNet takes minutes, so it has one.
    networks = [network for network in networks if network != "convnet epoch 3"]
    sizes: tuple[int, ...] = (2, 3, 4, 6, 8, 9)
    draws = 5
    if given.quick:
        networks = ["lenet untrained", "resnet20 untrained", *networks[8:]]
        sizes, draws = (2, 4), 2
    kinds = ("equal", "distinct", "zipf")
    found = [
        Job(network, labels, size, "float32", draw)
        for network in networks
        for labels in kinds
        for size in sizes
        for draw in range(draws)
    ]
    ends = [network for network in networks if network.endswith("trained")]
    for network in ends if not given.quick else networks[1:2]:
        for labels in kinds[:2]:
            for precision in PRECISIONS if not given.quick else PRECISIONS[:2]:
                found += [Job(network, labels, 4, precision, draw) for draw in range(min(3, draws))]
            found += [Job(network, labels, 4, "float32", i, granted=False) for i in range(draws)]
    if have and not given.quick:
        large = [
            ("equal", 4, 3),
            ("distinct", 8, 5),
            ("distinct", 32, 3),
            ("drawn", 64, 2),
            ("drawn", 128, 1),
        ]
        found += [
            Job("mobilenet", labels, size, "float32", draw)
            for labels, size, draws in large
            for draw in range(draws)
        ]
    return sorted(found, key=lambda job: (job.size == 128, job.network == "convnet epoch 1"))


def run(job: Job, given: Options) -> Row:
    """Unmix the last layer of one update, and score it against the features of the private batch."""
    data, model = network(job.network, given)
    chosen = drawn(data.targets, job, given)
    client = lg.Client(
        model=copy.deepcopy(model),
        loss=functional.cross_entropy,
        domain=data.domain,
        classes=data.classes,
    )
    dtype = torch.float64 if job.precision == "float64" else torch.float32
    client.model.to(dtype)
    batch = lg.Batch(data.inputs[chosen].to(dtype), data.targets[chosen])
    seen = lg.Server(labels=job.granted).observe(client, batch, seeds=lg.Seeds(given.seed))
    features = features_of(client.model, batch.inputs)
    noise = None
    if job.precision == "bfloat16":
        update = seen.update.map(lambda t: t.bfloat16().to(t))
        seen = replace(seen, update=update)
    elif job.precision.startswith("noise"):
        seen, noise = noisy(seen, float(job.precision.split()[1]), job, given)
    clock = time.process_time()
    generator = torch.Generator().manual_seed(given.seed)
    found = recover_features(seen, generator, noise=noise)
    seconds = time.process_time() - clock
    assert isinstance(found, Unmixed), found
    row = {"network": job.network, "labels": job.labels, "batch": job.size}
    row |= {"precision": job.precision, "granted": job.granted, "seconds": seconds}
    return row | score(found, features, batch.targets)


def score(found: Unmixed, features: Tensor, targets: Tensor) -> Row:
    """Return errors after assignment, relative to the features, and to their distance from their mean."""
    none = found.error.isinf()
    # A missing reconstruction is put far from every example, so that it does not count as one of zeros.
    far = torch.where(none.unsqueeze(1), 1e3 * features.abs().max(), found.features)
    order = lg.metrics.assign(features, far)
    wrong = (found.features[order] - features).norm(dim=1)
    apart = (features - features.mean(0)).norm(dim=1)
    known = found.found[order]
    error = wrong / features.norm(dim=1)
    return {
        "error": error.tolist(),
        "spread_error": (wrong / apart.clamp_min(1e-300)).tolist(),
        "estimate": [min(value, 1e9) for value in found.error[order].tolist()],
        "found": known.tolist(),
        "wrong": (known & (error > WRONG)).tolist(),
        "label": (found.labels[order] == targets).tolist(),
        "rank": found.rank,
        "misfit": found.misfit,
        "certified": found.certified,
    }


def drawn(targets: Tensor, job: Job, given: Options) -> list[int]:
    """Return examples whose labels are all equal, all distinct, of Zipf's law, or as the examples are drawn."""
    seed = lg.Seeds(given.seed).generator(f"{job.labels}/{job.size}/{job.draw}")
    order = torch.randperm(len(targets), generator=seed).tolist()
    classes = int(targets.max()) + 1
    ranks = torch.randperm(classes, generator=seed)
    if job.labels == "drawn":
        return order[: job.size]
    if job.labels == "equal":
        label = int(targets[order[0]])
        return [i for i in order if int(targets[i]) == label][: job.size]
    if job.labels == "distinct":
        kinds = torch.unique(targets)
        wanted = kinds[torch.randperm(len(kinds), generator=seed)]
    else:
        chance = 1 / torch.arange(1, classes + 1).float()
        wanted = ranks[torch.multinomial(chance, job.size, replacement=True, generator=seed)]
    chosen: list[int] = []
    for label in wanted[: job.size].tolist():
        chosen.append(next(i for i in order if int(targets[i]) == label and i not in chosen))
    return chosen


def noisy(
    seen: lg.Observation, level: float, job: Job, given: Options
) -> tuple[lg.Observation, Blur]:
    """Return the update with Gaussian noise, and what the adversary knows of the noise.

    Its deviation is `level` times the root mean square of the last weight's gradient.
    """
    name = next(n for n in reversed(list(seen.update.tensors)) if n.endswith("weight"))
    sigma = level * float(seen.update.tensors[name].double().square().mean().sqrt())
    generator = lg.Seeds(given.seed).generator(f"noise/{job.draw}")
    update = seen.update.map(
        lambda t: (t.double() + sigma * torch.randn(t.shape, generator=generator).double()).to(t)
    )
    return replace(seen, update=update), Blur(sigma=sigma)


def features_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the inputs (B, d) of the model's last linear layer, in float64."""
    seen: list[Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return seen[0].double()


@cache
def network(name: str, given: Options) -> tuple[lg.Dataset, nn.Module]:
    """Return data and network of this name, in eval mode."""
    if name == "mobilenet":
        data = photographs()
        return data, mobilenet()
    data = images(given.data)
    builder, state = name.split(" ", 1)
    weights = "cifar10_resnet20.safetensors" if state == "trained" else None
    classes = data.classes or 10
    model = lg.models.build(
        BUILDERS[builder], data.domain, classes, seed=given.seed, weights=weights
    )
    train(model, int(state.split()[1]) if state.startswith("epoch") else 0, given.seed)
    return data, model


def train(model: nn.Module, epochs: int, seed: int) -> None:
    """Train by SGD with momentum on CIFAR-10's 4000 lossless training images."""
    if epochs == 0:
        return
    data = lg.data.npz(CIFAR, split="train")
    generator = lg.Seeds(seed).generator("training")
    model.train()
    descent = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for some in torch.split(order, 64):
            loss = functional.cross_entropy(model(data.inputs[some]), data.targets[some])
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()
    model.eval()


def photographs() -> lg.Dataset:
    """Return crops of the ImageNet samples, each also mirrored."""
    data = samples()
    crops = [data.inputs[..., i : i + CROP, i : i + CROP] for i in (16, 0, 32)]
    views = torch.cat([view for crop in crops for view in (crop, crop.flip(-1))])
    domain = lg.ImageDomain(3, CROP, CROP)
    return replace(data, inputs=views, domain=domain, targets=data.targets.repeat(6))


COLUMNS = (
    "batches read",
    "examples read",
    "read, of the rank",
    "found",
    "wrongly found",
    "median error",
    "of the spread",
    "seconds",
)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    keys = ("network", "labels", "batch", "precision", "granted")
    groups = [list(g) for _, g in groupby(rows, lambda row: [row[key] for key in keys])]
    table(["network", "labels", "batch", "gradient", *COLUMNS], [line(group) for group in groups])
    print()
    goals(rows)


def goals(rows: list[Row]) -> None:
    """Print figures over float32 and granted labels, by what the network has learned and by batch size."""
    lines = []
    for state in (*STATES, "trained"):
        for smallest, largest in ((2, 4), (5, 8)):
            some = [
                row
                for row in rows
                if row["network"].endswith(f" {state}")
                and row["precision"] == "float32"
                and row["granted"]
                and smallest <= row["batch"] <= largest
            ]
            if some:
                lines.append([state, f"{smallest} to {largest}", *line(some)[4:]])
    table(["network", "batch", *COLUMNS], lines)


def line(group: list[Row]) -> list[object]:
    """Return the line of one group of draws."""
    first = group[0]
    errors = [value for row in group for value in row["error"]]
    return [
        first["network"],
        first["labels"] + ("" if first["granted"] else ", withheld"),
        first["batch"],
        first["precision"],
        share(all(value <= READ for value in row["error"]) for row in group),
        share(value <= READ for value in errors),
        f"{sum(value <= READ for value in errors)}/{sum(row['rank'] for row in group)}",
        share(value for row in group for value in row["found"]),
        sum(value for row in group for value in row["wrong"]),
        f"{median(errors):.0e}",
        f"{median([value for row in group for value in row['spread_error']]):.0e}",
        f"{median([row['seconds'] for row in group]):.1f}",
    ]


if __name__ == "__main__":
    main()
