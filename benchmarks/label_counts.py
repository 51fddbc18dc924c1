"""Label counts from one gradient: every method, beside a guess that sees no update.

Networks are untrained (BatchNorm in eval and in train mode), after one epoch on 4000 images, and
published. The published ResNet-20 sees its training images and test images. Batches have 1 to 1024
examples. Labels are drawn with the images, all equal, or follow Zipf's law.

Only the last layer of the update is computed, since no method reads more. "Instances" is sum_c
min(k_c, found_c) / B, with the true counts k_c of each class c and the batch size B. "Classes" is
the fraction of classes that are counted exactly, among those present or claimed.

Quick: untrained LeNet and ResNet-20 at batches of 1, 8 and 64, one draw each, by every method.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import mean

import torch
from common import CIFAR, Options, Row, run_jobs, table
from mobilenet import CROP, mobilenet, samples
from problems import images
from torch import Tensor, nn
from torch.nn import functional
from unmixing import train

import leakgauge as lg
from leakgauge.analytic.label_recovery import (
    Auxiliary,
    BestLabels,
    GradInversionRule,
    Idlg,
    Ilrg,
    LabelMethod,
    LabelRecovery,
    Llg,
    LlgPlus,
    LlgStar,
    Rlg,
    Tilting,
)
from leakgauge.analytic.label_recovery.base import round_counts

NAME = "label_counts"
AUXILIARY = 100
"""Number of labeled images that the adversary has, for the methods that need some."""
CHUNK = 256
DRAWS = {1: 2, 8: 2, 64: 3, 256: 1, 1024: 1}
"""Number of draws of each batch size."""
RLG = 8
"""Largest batch for RLG on 1000 classes, where it solves a linear program for each class."""
NETWORKS = (
    "lenet untrained",
    "resnet20 untrained",
    "resnet20 untrained, train mode",
    "resnet20 epoch 1",
    "resnet20 trained",
    "resnet20 trained, test images",
    "mobilenet trained",
)
KINDS = ("drawn", "equal", "zipf")


@dataclass(frozen=True)
class Job:
    """One batch: the network, how its labels are drawn, its size, and the number of the draw."""

    network: str
    labels: str
    size: int
    draw: int


@dataclass(frozen=True)
class Problem:
    """A network, the images that private batches are drawn from, and those of the adversary."""

    model: nn.Module
    data: lg.Dataset
    auxiliary: Auxiliary | None


def jobs_of(given: Options) -> list[Job]:
    """Return several draws of small batches, and one of large ones."""
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    networks = list(NETWORKS[: 7 if have else 3])
    if given.quick:
        networks = networks[:2]
    found = []
    for network in networks:
        for size in list(DRAWS)[: 3 if given.quick or "test" in network else 5]:
            for kind in KINDS:
                draws = 1 if given.quick else DRAWS[size]
                found += [Job(network, kind, size, draw) for draw in range(draws)]
    return found


def run(job: Job, given: Options) -> Row:
    """Observe one update, and return the counts that each method reads from it."""
    problem = problem_of(job.network, given)
    generator = lg.Seeds(given.seed).generator(f"{job.labels}/{job.size}/{job.draw}")
    chosen = drawn(problem.data.targets, job, generator)
    seen = observed(problem, job, chosen, generator, given)
    classes = problem.data.classes or 10
    truth = torch.bincount(problem.data.targets[chosen], minlength=classes)
    seeds = lg.Seeds(given.seed)
    found: dict[str, Row] = {}
    for name, method in methods(problem, job).items():
        clock = time.perf_counter()
        reading = method.prepare(seen)
        if not isinstance(reading, lg.Inapplicable):
            answer = reading(seeds)
            found[name] = score(truth, answer) | {"seconds": time.perf_counter() - clock}
    equal = round_counts(torch.full((classes,), job.size / classes).double(), job.size)
    found["no update, all classes alike"] = score(truth, LabelRecovery.of(equal, "equal"))
    return {
        "network": job.network,
        "labels": job.labels,
        "batch": job.size,
        "seed": given.seed,
        "methods": found,
    }


def methods(problem: Problem, job: Job) -> Mapping[str, LabelMethod]:
    """Return all methods, in the order of the table."""
    found: dict[str, LabelMethod] = {"idlg": Idlg(), "grad_inversion": GradInversionRule()}
    if problem.data.classes != 1000 or job.size <= RLG:
        found["rlg (presence)"] = Rlg()
    found |= {"llg": Llg(), "llg*": LlgStar(), "ilrg": Ilrg(), "best": BestLabels()}
    if problem.auxiliary is not None:
        found["llg+"] = LlgPlus(auxiliary=problem.auxiliary)
        found["tilting, auxiliary"] = Tilting(auxiliary=problem.auxiliary)
    return found


def score(truth: Tensor, found: LabelRecovery) -> Row:
    """Return the fractions of instances and of classes. A method without counts is scored by presence."""
    told: Row = {"by": found.method, "certified": found.certified, "instances": None}
    if found.counts is None:
        there = (truth > 0) | found.present
        return told | {"classes": float(((truth > 0) == found.present)[there].double().mean())}
    there = (truth > 0) | (found.counts > 0)
    told["instances"] = float(torch.minimum(truth, found.counts).sum() / truth.sum())
    return told | {"classes": float((truth == found.counts)[there].double().mean())}


def drawn(targets: Tensor, job: Job, generator: torch.Generator) -> Tensor:
    """Return examples (B,), drawn at random, of one label, or by Zipf's law. They repeat if there are too few."""
    kinds = torch.unique(targets)
    order = kinds[torch.randperm(len(kinds), generator=generator)]
    if job.labels == "drawn":
        return spread(torch.arange(len(targets)), job.size, generator)
    if job.labels == "equal":
        return spread((targets == order[0]).nonzero().flatten(), job.size, generator)
    chance = 1 / torch.arange(1, len(order) + 1).double()
    wanted = order[torch.multinomial(chance, job.size, replacement=True, generator=generator)]
    return torch.cat(
        [
            spread((targets == label).nonzero().flatten(), int((wanted == label).sum()), generator)
            for label in torch.unique(wanted)
        ]
    )


def spread(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` examples of a pool, each about equally often."""
    rounds = -(-count // len(pool))
    orders = [torch.randperm(len(pool), generator=generator) for _ in range(rounds)]
    return pool[torch.cat(orders)[:count]]


def observed(
    problem: Problem, job: Job, chosen: Tensor, generator: torch.Generator, given: Options
) -> lg.Observation:
    """Return what a server sees of the batch.

    In eval mode its gradient is computed as the mean over chunks, which takes less memory.
    """
    client = lg.Client(
        model=problem.model,
        loss=functional.cross_entropy,
        domain=lg.ImageDomain(3, CROP, CROP)
        if job.network.startswith("mobilenet")
        else problem.data.domain,
        classes=problem.data.classes,
    )
    parts = [chosen] if "train mode" in job.network else list(torch.split(chosen, CHUNK))
    updates: list[tuple[float, lg.Observation]] = []
    for part in parts:
        inputs = problem.data.inputs[part]
        if inputs.shape[1:] != client.domain.shape:
            inputs = cropped(inputs, generator)
        batch = lg.Batch(inputs, problem.data.targets[part])
        seen = lg.Server().observe(client, batch, seeds=lg.Seeds(given.seed))
        updates.append((len(part) / len(chosen), seen))
    tensors = {
        name: torch.stack([share * seen.update.tensors[name].double() for share, seen in updates])
        .sum(0)
        .float()
        for name in updates[0][1].update.tensors
    }
    last = updates[0][1]
    knowledge = replace(last.knowledge, batch_size=len(chosen))
    return replace(last, update=lg.Update(tensors), knowledge=knowledge)


def cropped(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random crop of each image, about half of them mirrored.

    The samples have one image for each class, so crops make several.
    """
    found = []
    for image in inputs:
        top, left, mirror = torch.randint(33, (3,), generator=generator).tolist()
        crop = image[:, top : top + CROP, left : left + CROP]
        found.append(crop.flip(-1) if mirror % 2 else crop)
    return torch.stack(found)


@cache
def problem_of(name: str, given: Options) -> Problem:
    """Return network and data. Only the last layer is trained, since no method reads the rest of an update."""
    if name.startswith("mobilenet"):
        return Problem(frozen(mobilenet()), samples(), None)
    data = images(given.data)
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    other = lg.data.npz(CIFAR, split="train") if have else data
    auxiliary = Auxiliary(other.inputs[-AUXILIARY:], other.targets[-AUXILIARY:])
    pool = (
        data
        if "test images" in name or not have
        else replace(other, inputs=other.inputs[:-AUXILIARY], targets=other.targets[:-AUXILIARY])
    )
    builder: Callable[..., nn.Module] = (
        lg.models.lenet if name.startswith("lenet") else lg.models.resnet20
    )
    weights = "cifar10_resnet20.safetensors" if "20 trained" in name else None
    classes = data.classes or 10
    model = lg.models.build(builder, data.domain, classes, seed=given.seed, weights=weights)
    train(model, 1 if "epoch 1" in name else 0, given.seed)
    if "train mode" in name:
        model.train()
    return Problem(frozen(model), replace(pool, classes=classes), auxiliary if have else None)


def frozen(model: nn.Module) -> nn.Module:
    """Return a copy in which only the last linear layer is trained."""
    found = copy.deepcopy(model).requires_grad_(False)
    last = [module for module in found.modules() if isinstance(module, nn.Linear)][-1]
    last.requires_grad_(True)
    return found


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    names = list(dict.fromkeys(name for row in rows for name in row["methods"]))
    lines = []
    keys = ("network", "batch", "labels")
    for key, group in groupby(rows, lambda row: [row[k] for k in keys]):
        lines.append([*key, *cells(list(group), names)])
    table([*keys, *names], lines)


def cells(group: list[Row], names: list[str]) -> list[str]:
    """Return percent of instances / of classes, for each method that ran."""
    found = []
    for name in names:
        some = [row["methods"][name] for row in group if name in row["methods"]]
        counted = [row["instances"] for row in some if row["instances"] is not None]
        text = f"{100 * mean(counted):.1f}" if counted else "-"
        classes = f"{100 * mean(row['classes'] for row in some):.0f}" if some else "-"
        found.append(f"{text} / {classes}" if some else "-")
    return found


if __name__ == "__main__":
    main()
