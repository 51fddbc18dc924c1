"""Exact attacks beside optimization on the same updates, and the defenses under which exactness ends.

First, by network, batch and labels: time and quality of each exact attack that applies, and of gradient
matching with a bounded budget, its steps in its name. Labels are granted to all, without their order: matching
needs them, exact attacks mostly do not. Equal labels are those of the first image, given to all. Seconds are
the process's own, on one thread. The control is the same guess, scored against other images.

Then each exact attack on one network, under defenses that the adversary knows of. An update of several local
steps is answered by what the attack says of it, and by its result on the weight difference over lr and
steps, taken for one gradient. Jobs are in order of their draw: a run that is cut has the first of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from common import Options, Row, header, images, measure, options, scored, share, table
from torch import Tensor, nn
from torch.nn import functional
from unmixing import READ, features_of
from unmixing import score as features_score

import leakgauge as lg
from leakgauge import attacks, defenses, models
from leakgauge.analytic.last_layer import read
from leakgauge.core import Loss, Tensors, Update, UpdateKind, trainable

NAME = "exact_attacks"
EXACT = 60.0
"""PSNR (dB) from which an image counts as read: an error below an eighth of a gray level."""
FEATURES = "softmax unmixing, features"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


@dataclass(frozen=True)
class LocalSteps:
    """`steps` full-batch steps of gradient descent; the update is what they add to the weights (FedAvg)."""

    lr: float
    steps: int = 5

    @property
    def kind(self) -> UpdateKind:
        return "delta"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """The difference of the weights, by parameter name. Leaves the model as it was."""
        start = trainable(model)
        weights = dict(start)
        for _ in range(self.steps):
            value = lg.FedSGD().scalar(model, loss, weights, inputs, targets)
            slopes = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph)
            pairs = zip(weights.items(), slopes, strict=True)
            weights = {name: weight - self.lr * slope for (name, weight), slope in pairs}
        return {name: weights[name] - start[name] for name in start}


@dataclass(frozen=True)
class Cell:
    """A network, a batch size, its labels, and the attacks tried on it by name, for so many draws."""

    network: Callable[..., nn.Module]
    size: int
    tried: tuple[str, ...]
    labels: str = "distinct"
    draws: int = 3
    precision: torch.dtype = torch.float32


def adam(steps: int, tv: float = 1e-4) -> lg.Attack:
    """Inverting Gradients, of fewer steps than its paper's 24,000."""
    return attacks.InvertingGradients(steps=steps, tv=tv)


ATTACKS: dict[str, lg.Attack] = {
    "R-GAP": attacks.RGAP(),
    "peeling": attacks.Peeling(),
    "linear layer": attacks.LinearLayer(),
    "SPEAR": attacks.Spear(),
    "SPEAR++": attacks.SpearPlusPlus(),
    "cocktail party": attacks.CocktailParty(),
    "APRIL": attacks.April(equations="embedding"),
    "softmax unmixing": attacks.SoftmaxUnmixing(),
    "softmax unmixing, cut": attacks.SoftmaxUnmixing(warm=3, iterations=150, stages=1),
    **{f"signed Adam {n}": adam(n) for n in (400, 500, 1000, 2000, 4000)},
    "signed Adam 1000, tv 0.01": adam(1000, 0.01),
    "iDLG 1000": attacks.IDLG(steps=50),
    **{f"L-BFGS {25 * n}": attacks.BalancedDLG(steps=n, labels="recovered") for n in (3, 10, 20)},
    "smoothed matching 400": attacks.SmoothedMatching(),
    "second order": attacks.SecondOrder(),
    "second order, cut": attacks.SecondOrder(warm=3, iterations=150, stages=1),
}
READERS = ("SPEAR", "linear layer", "cocktail party")

MLP = partial(models.mlp, width=400)
CNN = partial(models.fedavg_cnn, mean=MEAN, std=STD)
VIT = partial(models.vit, dim=96)
PAIR = ("softmax unmixing, cut", "second order, cut", "signed Adam 1000, tv 0.01")
CELLS: dict[str, Cell] = {
    "CNN6, batch 1": Cell(
        models.cnn6, 1, ("R-GAP", "signed Adam 4000", "iDLG 1000", "smoothed matching 400")
    ),
    "FedAvg CNN, batch 1": Cell(
        CNN, 1, ("peeling", "signed Adam 1000", "iDLG 1000", "smoothed matching 400"), draws=5
    ),
    "ConvNet of width 16, batch 1": Cell(
        partial(models.convnet, width=16),
        1,
        ("peeling", "signed Adam 500", "smoothed matching 400"),
    ),
    "MLP, batch 1": Cell(MLP, 1, ("linear layer", "signed Adam 2000", "iDLG 1000")),
    **{
        f"MLP, batch {size}, {labels}": Cell(MLP, size, (*READERS, *matching), labels)
        for size, matching in (
            (8, ("signed Adam 2000", "L-BFGS 500")),
            (16, ("signed Adam 1000", "L-BFGS 250")),
        )
        for labels in ("distinct", "equal")
    },
    "MLP of width 1000, batch 64, equal": Cell(
        partial(models.mlp, width=1000),
        64,
        ("SPEAR++", "cocktail party", "signed Adam 400", "L-BFGS 75"),
        "equal",
        draws=2,
    ),
    "ViT in float64, batch 1": Cell(
        VIT,
        1,
        ("APRIL", "signed Adam 1000", "iDLG 1000", "second order, cut"),
        precision=torch.float64,
    ),
    "LeNet, batch 4, equal": Cell(
        models.lenet,
        4,
        ("softmax unmixing", "second order", "signed Adam 2000", "L-BFGS 500"),
        "equal",
        draws=2,
    ),
    "ResNet-20, batch 4, equal": Cell(models.resnet20, 4, PAIR, "equal", draws=2),
    "ResNet-20, batch 2, equal": Cell(models.resnet20, 2, PAIR, "equal", draws=2),
}
DEFENDED: dict[str, Cell] = {
    "CNN6, batch 1": Cell(models.cnn6, 1, ("R-GAP",), draws=1),
    "FedAvg CNN, batch 1": Cell(CNN, 1, ("peeling",), draws=2),
    "MLP, batch 1": Cell(MLP, 1, ("linear layer",)),
    "MLP, batch 8": Cell(MLP, 8, ("SPEAR", "linear layer")),
    "MLP, batch 64": Cell(partial(models.mlp, width=512), 64, ("cocktail party",)),
    "ViT in float64, batch 1": Cell(VIT, 1, ("APRIL",), precision=torch.float64),
    "LeNet, batch 4, equal": Cell(models.lenet, 4, (FEATURES,), "equal"),
}
DEFENSES: dict[str, lg.Defense | None] = {
    "none": None,
    **{f"noise {std:g}": defenses.GaussianNoise(std=std) for std in (1e-5, 1e-4, 1e-3, 1e-2)},
    **{f"top {kept:.0%} kept": defenses.TopK(sparsity=1 - kept) for kept in (0.9, 0.5, 0.1)},
    "bf16": defenses.Quantization(format="bf16"),
}
STEPS = {f"5 steps, lr {lr:g}": LocalSteps(lr) for lr in (1e-3, 1e-2, 1e-1)}


@dataclass(frozen=True)
class Job:
    """One attack on one update."""

    part: str
    cell: str
    attack: str
    draw: int
    defense: str = "none"


def jobs_of(given: Options) -> list[Job]:
    """Both parts, the first draw of all before the second."""
    if given.quick:
        quick = ("FedAvg CNN, batch 1", "MLP, batch 8, equal")
        found = [Job("beside", name, CELLS[name].tried[0], 0) for name in quick]
        found.append(Job("beside", quick[1], "L-BFGS 250", 0))
        names = ("none", "noise 0.0001", "5 steps, lr 0.01")
        return found + [Job("defended", "MLP, batch 8", "SPEAR", 0, name) for name in names]
    found = [
        Job("beside", name, attack, draw)
        for name, cell in CELLS.items()
        for attack in cell.tried
        for draw in range(cell.draws)
    ]
    found += [
        Job("defended", name, attack, draw, defense)
        for name, cell in DEFENDED.items()
        for attack in cell.tried
        for defense in (*DEFENSES, *STEPS)
        for draw in range(cell.draws)
    ]
    # ResNet-20, which takes as long as all others, comes last.
    return sorted(found, key=lambda job: (job.cell.startswith("ResNet"), job.draw))


def run(job: Job, given: Options) -> Row:
    """One update, attacked and scored."""
    cell = (CELLS if job.part == "beside" else DEFENDED)[job.cell]
    seed = given.seed + job.draw
    data, chosen, others = drawn(images(given.data), cell, lg.Seeds(seed))
    batch, seen = observed(data, cell, chosen, job.defense, seed)
    row: Row = {**vars(job), "seed": seed, "images": chosen}
    if job.attack == FEATURES:
        return row | features(seen, batch, seed)
    attack = ATTACKS[job.attack]
    row["reason"] = attack.inapplicable(seen)
    if seen.update.kind == "delta":
        seen = as_gradient(seen)
    if (reason := attack.inapplicable(seen)) is not None:
        return row | {"reason": reason, "psnr": None}
    clock = time.process_time()
    guess = attack(seen, seeds=lg.Seeds(seed))
    own = time.process_time() - clock
    other = lg.Batch(data.inputs[others].to(cell.precision), data.targets[others])
    control = scored(data, other, guess)["psnr"]
    row |= scored(data, batch, guess) | {"seconds": own, "control_psnr": control}
    return row | {"message": guess.message, "notes": guess.notes}


def drawn(data: lg.Dataset, cell: Cell, seeds: lg.Seeds) -> tuple[lg.Dataset, list[int], list[int]]:
    """The data as labeled here, the batch's images at random, and as many others, wrapped around."""
    order = torch.randperm(len(data), generator=seeds.generator(f"batch/{cell.size}")).tolist()
    if cell.labels == "distinct":
        first: dict[int, int] = {}
        for i in order:
            first.setdefault(int(data.targets[i]), i)
        order = [*first.values(), *(i for i in order if i not in first.values())]
    chosen, others = order[: cell.size], (order * 2)[cell.size : 2 * cell.size]
    if cell.labels == "equal":
        label = int(data.targets[chosen[0]])
        data = replace(data, targets=torch.full_like(data.targets, label))
    return data, chosen, others


def observed(
    data: lg.Dataset, cell: Cell, chosen: list[int], defense: str, seed: int
) -> tuple[lg.Batch, lg.Observation]:
    """The batch, and what a server that is granted the labels and knows the defense sees of it."""
    network = models.build(cell.network, data.domain, 10, seed=seed).to(cell.precision)
    client = lg.Client(
        model=network,
        loss=functional.cross_entropy,
        domain=data.domain,
        classes=10,
        training=STEPS.get(defense, lg.FedSGD()),
        defense=DEFENSES.get(defense),
    )
    batch = lg.Batch(data.inputs[chosen].to(cell.precision), data.targets[chosen])
    return batch, lg.Server(labels=True).observe(client, batch, seeds=lg.Seeds(seed))


def as_gradient(seen: lg.Observation) -> lg.Observation:
    """A weight difference over -lr steps, taken for one gradient: the mean of those on the way."""
    training = seen.training
    assert isinstance(training, LocalSteps), "no other is used here"
    scale = -training.lr * training.steps
    update = Update({name: t / scale for name, t in seen.update.tensors.items()}, "gradient")
    return replace(seen, update=update, training=lg.FedSGD())


def features(seen: lg.Observation, batch: lg.Batch, seed: int) -> Row:
    """What softmax unmixing reads, as the attack of that name does before any descent."""
    reason = ATTACKS["softmax unmixing"].inapplicable(seen)
    if seen.update.kind == "delta":
        seen = as_gradient(seen)
    clock = time.process_time()
    found = read(seen, lg.Seeds(seed).generator("unmixing"))
    row: Row = {"reason": reason, "psnr": None, "seconds": time.process_time() - clock}
    if isinstance(found, str):
        return row | {"reason": found}
    return row | features_score(found, features_of(seen.model, batch.inputs), batch.targets)


def main() -> None:
    given = options(NAME, __doc__ or "")
    rows = measure(partial(run, given=given), jobs_of(given), given, name=NAME)
    header(given)
    print_beside([row for row in rows if row["part"] == "beside"])
    print()
    print_defended([row for row in rows if row["part"] == "defended"])


def grouped(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of `keys`."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def print_beside(rows: list[Row]) -> None:
    """One line for each attack in each cell, in the order of the cells."""
    place = {
        (name, a): (i, j)
        for i, (name, cell) in enumerate(CELLS.items())
        for j, a in enumerate(cell.tried)
    }
    rows = sorted(rows, key=lambda row: place.get((row["cell"], row["attack"]), (99, 99)))
    headings = ["median dB", "least", "control", f">= {EXACT:g} dB", "certified", "residual"]
    table(
        ["cell", "attack", "batches", *headings, "seconds"],
        [
            [*key, len(group), *summary(group), f"{median(row['seconds'] for row in group):.1f}"]
            for key, group in grouped(rows, "cell", "attack").items()
        ],
    )


def summary(rows: list[Row]) -> list[str]:
    """Over all images of these batches."""
    psnr, control = ([v for row in rows for v in row[name]] for name in ("psnr", "control_psnr"))
    residuals = [row["residual"] for row in rows if row["residual"] is not None]
    return [
        f"{median(psnr):.1f}",
        f"{min(psnr):.1f}",
        f"{median(control):.1f}",
        share(value >= EXACT for value in psnr),
        share(row["status"] == "certified" for row in rows),
        f"{median(residuals):.0e}" if residuals else "-",
    ]


def print_defended(rows: list[Row]) -> None:
    """One line for each attack and network, one column for each defense; then what several steps are answered."""
    names = [name for name in (*DEFENSES, *STEPS) if any(row["defense"] == name for row in rows)]
    lines = []
    for (attack, cell), group in grouped(rows, "attack", "cell").items():
        by = grouped(group, "defense")
        lines.append([attack, cell, *(told(by.get((name,), [])) for name in names)])
    print(
        f"Median dB, and images of {EXACT:g} dB; for features the median relative error, and how many of {READ:g}:"
    )
    table(["attack", "cell", *names], lines)
    reasons = {(row["attack"], row["reason"]): None for row in rows if row["reason"] is not None}
    for attack, reason in reasons:
        print(f"{attack}: {reason}")


def told(rows: list[Row]) -> str:
    """One entry: quality, and how many are exact."""
    psnr = [value for row in rows for value in row["psnr"] or []]
    errors = [value for row in rows for value in row.get("error") or []]
    if psnr:
        return f"{median(psnr):.0f}, {sum(value >= EXACT for value in psnr)}/{len(psnr)}"
    if errors:
        return f"{median(errors):.0e}, {sum(value <= READ for value in errors)}/{len(errors)}"
    return "inapplicable" if rows else "-"


if __name__ == "__main__":
    main()
