"""Exact inversion of convolutional networks, beside Inverting Gradients on the same updates.

Three parts. "span": how well the inputs of a convolution of ResNet-18 lie in the span that its gradient
gives, exact and altered. "images": what `ShiftConsistency` makes of whole updates. "altered": the same
of altered updates of ResNet-18. Labels are withheld
from it, and granted to Inverting Gradients. Images are real, and each draw of an untrained network has
weights of its own. Trained networks are attacked on test images with a loss above 0.1. The control is
the same reconstruction scored against other images of the same labels.

Quick: the span under no and one alteration, and the attack on one image through ResNet-18.
"""

from __future__ import annotations

import os
import re
import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import torch
from altered_updates import (
    ALTERED,
    PROTOCOLS,
    altered_attack,
    altered_table,
    altered_view,
    batch_size,
    defense_of,
    features_row,
)
from common import Options, Row, run_jobs, table
from controls import control_batch, every
from convolution_cells import PUBLISHED, Cell, has_data, indices, subject
from grad_inversion import pictures
from problems import observe, reconstructed, scored_beside
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.analytic.convolutions.geometry import Geometry, geometry_of
from leakgauge.analytic.convolutions.observed import errors_of, read_problem
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, row_space, span_of

NAME = "convolutions"
LAYER = "layer4.1.conv1"
OURS = "shift consistency"
STEPS = {1: 1000, 4: 400, 8: 300}
"""Steps of signed Adam (Inverting Gradients) by batch size. The paper takes 24,000."""
BESIDE = "signed Adam"
SHOWN = Cell("resnet18", "untrained", "equal", 8, 0)
"""The cell whose pictures are kept, for `ablation_figure.py`."""
EXACT = (40, 70, 100)
"""PSNR in dB whose share of images is told."""


@dataclass(frozen=True)
class Job:
    """One batch, and what is done with its update."""

    part: str
    network: str
    state: str
    labels: str
    size: int
    draw: int
    method: str = OURS
    altered: str = "none"

    @property
    def cell(self) -> Cell:
        """The network and the batch."""
        size = batch_size(self.altered, self.size)
        return Cell(self.network, self.state, self.labels, size, self.draw)


def jobs_of(given: Options) -> list[Job]:
    """Return the span's jobs, then the attack's, the goals of most weight first."""
    if given.quick:
        spans = [
            Job("span", "resnet18", "untrained", "equal", 1, 0, "span", altered)
            for altered in ALTERED[:3]
        ]
        return [*spans, Job("images", "resnet18", "untrained", "drawn", 1, 0)]
    spans = [
        Job("span", "resnet18", "untrained", "equal", size, draw, "span", altered)
        for size in (1, 4)
        for draw in range(3)
        for altered in ALTERED
    ]
    return [*spans, *images_of(given), *altered_jobs()]


def altered_jobs() -> list[Job]:
    """Return the jobs of altered updates: one draw of each first."""
    kinds = (*ALTERED, *PROTOCOLS)

    def job(altered: str, size: int, draw: int, method: str) -> Job:
        labels = "drawn" if batch_size(altered, size) == 1 else "equal"
        return Job("altered", "resnet18", "untrained", labels, size, draw, method, altered)

    one = [[job(altered, 1, draw, OURS) for altered in kinds] for draw in range(3)]
    four = [job(altered, 4, 0, OURS) for altered in kinds if not altered.startswith("clients")]
    beside = [job(altered, 1, 0, BESIDE) for altered in kinds]
    return [*one[0], *beside, *four, *one[1], *one[2]]


def images_of(given: Options) -> list[Job]:
    """Return the jobs of whole updates, by weight. Within a weight, draw by draw."""
    listed: list[tuple[int, Job]] = []

    def add(weight: int, network: str, state: str, sizes: tuple[int, ...], draws: int) -> None:
        kinds = {size: ("drawn",) if size == 1 else ("equal", "drawn") for size in sizes}
        if state == "trained" or state.startswith("epoch"):
            kinds = dict.fromkeys(sizes, ("drawn",))
        listed.extend(
            (weight, Job("images", network, state, labels, size, draw))
            for draw in range(draws)
            for size in sizes
            for labels in kinds[size]
        )

    for first, weight in ((5, 0), (20, 4)):
        add(weight, "resnet18", "untrained", (1,), first)
    add(1, "resnet18", "untrained", (8,), 3)
    for network in PUBLISHED:
        many = 20 if network == "resnet20" else 10
        for state in ("untrained", "trained") if has_data(given) else ("untrained",):
            add(2, network, state, (1,), 3)
            add(5, network, state, (1,), many)
            add(6, network, state, (2,), 3)
    if has_data(given):
        for state in ("epoch 1", "epoch 5"):
            add(3, "resnet18", state, (1,), 3)
            add(5, "resnet18", state, (1,), 10)
    add(6, "resnet18", "untrained", (2, 4), 3)
    add(6, "resnet18 train mode", "untrained", (2, 4, 8), 2)
    add(7, "resnet18", "untrained", (16, 24, 32), 1)
    for network in ("convnet", "1-D CNN", "3-D CNN", "densenet", "densenet scaled", "u-net"):
        add(8, network, "untrained", (1, 8), 1)
    for network in ("vgg norm", "vgg", "vgg scaled"):
        add(8, network, "untrained", (1, 8, 32), 1)
    for network in ("resnet18 64", "resnet50 64", "resnet18 224", "resnet50 224"):
        add(8, network, "untrained", (1, 4, 8), 1)
    add(8, "densenet121", "untrained", (1, 4, 8), 1)
    add(8, "resnext", "untrained", (1,), 1)
    add(8, "resnet18 float64", "untrained", (32,), 1)
    for size in STEPS:
        labels = "drawn" if size == 1 else "equal"
        listed += [
            (9, Job("images", "resnet18", "untrained", labels, size, draw, BESIDE))
            for draw in range(3 if size == 1 else 1)
        ]
    return list(dict.fromkeys(job for _, job in sorted(listed, key=lambda pair: pair[0])))


def run(job: Job, given: Options) -> Row:
    """Measure one job."""
    data, model = subject(job.cell, given)
    held = indices(job.cell, data, model, given)
    seed = 1000 * given.seed + job.draw
    row: Row = {**vars(job), "seed": seed}
    if job.part == "altered":
        return row | altered_row(job, data, model, held, seed)
    if job.part == "span":
        return row | span_row(job, data, model, held, seed)
    return row | images_row(job, data, model, held, seed)


def images_row(job: Job, data: lg.Dataset, model: nn.Module, held: list[int], seed: int) -> Row:
    """Attack one update, and score the result beside its control."""
    attack = attack_of(job)
    server = lg.Server(labels=job.method != OURS)
    batch, seen = observe(data, model, held, server=server, seed=seed, classes=data.classes or 10)
    recipe = job.method if job.cell == SHOWN else None
    row = attacked(attack, data, batch, seen, held, seed, recipe)
    return row if row["status"] == "failed" else row | {"loss": losses_of(model, batch)}


def altered_row(job: Job, data: lg.Dataset, model: nn.Module, held: list[int], seed: int) -> Row:
    """Attack one altered update, and score the result and its features beside its control."""
    ours = job.method == OURS
    batch, seen = altered_view(job.altered, data, model, held, labels=not ours, seed=seed)
    attack = altered_attack(job.altered, job.size, ours=ours)
    row = attacked(attack, data, batch, seen, held, seed)
    return row | (features_row(seen, batch.inputs, seed) if ours else {})


def attacked(
    attack: lg.BaseAttack,
    data: lg.Dataset,
    batch: lg.Batch,
    seen: lg.Observation,
    held: list[int],
    seed: int,
    recipe: str | None = None,
) -> Row:
    """Return an attack's result with its scores, beside its control, and with pictures if it has a name for them."""
    row: Row = {"attack": repr(attack)}
    try:
        guess, spent = reconstructed(attack, seen, lg.Seeds(seed))
    except lg.LeakGaugeError as error:
        return row | {"status": "failed", "message": " ".join(str(error).split())}
    others = control_batch(data, held, lg.Seeds(seed).generator(f"control/{len(held)}"))
    row |= spent | scored_beside(data, batch, others, guess) | perceived(data, batch, guess)
    if recipe is not None:
        generator = lg.Seeds(seed).generator(f"control/{len(held)}")
        row |= {"recipe": recipe, **pictures(data, torch.tensor(held), guess, generator)}
    row |= {"message": guess.message, "notes": list(guess.notes)}
    return row | {"read": read_of(guess), "reached": reached(guess)}


def perceived(data: lg.Dataset, batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return LPIPS of each color image of at least 32 pixels, if its weights are at hand."""
    shape = batch.inputs.shape[1:]
    if not os.environ.get("LEAKGAUGE_DATA") or len(shape) < 3 or shape[0] != 3:
        return {}
    truth = data.domain.to_unit(batch.inputs).float()
    found = data.domain.to_unit(guess.inputs).float().clamp(0, 1)
    order = lg.metrics.assign(truth, found)
    return {"lpips": lg.models.lpips_squeeze()(truth, found[order]).tolist()}


def attack_of(job: Job) -> lg.BaseAttack:
    """Return the attack of a job."""
    if job.method == OURS:
        return attacks.ShiftConsistency()
    return attacks.InvertingGradients(steps=STEPS[job.size])


def losses_of(model: nn.Module, batch: lg.Batch) -> list[float]:
    """Return the loss of each example."""
    with torch.no_grad():
        each = nn.functional.cross_entropy(
            deepcopy(model)(batch.inputs), batch.targets, reduction="none"
        )
    return [float(loss) for loss in each]


def read_of(guess: lg.Reconstruction) -> int | None:
    """Return the number of examples whose features the attack claims to know, or None if it reads none."""
    found = re.search(r"that have them: \d+ of (\d+)", guess.message)
    if found is not None:
        return int(found[1])
    return 0 if guess.status == lg.Status.INAPPLICABLE else None


def reached(guess: lg.Reconstruction) -> str:
    """Return the earliest layer whose input the attack says that it read, or ""."""
    for note in reversed(guess.notes):
        found = re.search(r"down to (?:that of )?([\w.]+)", note) or re.match(
            r"input of '([\w.]+)'", note
        )
        if found is not None:
            return found[1].removesuffix(".weight")
    return ""


def span_row(job: Job, data: lg.Dataset, model: nn.Module, held: list[int], seed: int) -> Row:
    """Return how far the true inputs of a layer are from the span that its gradient gives."""
    truth, geometry = inputs_of(model, data.inputs[held])
    classes = data.classes or 10
    _, plain = observe(data, model, held, seed=seed, classes=classes)
    defense = defense_of(job.altered, plain)
    _, seen = observe(data, model, held, seed=seed, classes=classes, defense=defense)
    dweight = seen.update.tensors[f"{LAYER}.weight"].double()
    clean = plain.update.tensors[f"{LAYER}.weight"].double()
    clock = time.process_time()
    space = row_space(dweight, error=torch.finfo(torch.float32).eps, sigma=sigma_of(seen))
    # The adversary knows the batch size, so that smaller singular values are noise.
    rank = min(space.rank, job.size * geometry.positions)
    kept = RowSpace(space.basis[:rank], rank, space.floor)
    operator = Consistency(kept, geometry, truth.shape[1])
    span = span_of(operator, job.size, generator=lg.Seeds(seed).generator("span"))
    seconds = time.process_time() - clock
    basis, flat = span.basis.flatten(1), truth.flatten(1)
    error = (flat - flat @ basis.T @ basis).norm(dim=1) / flat.norm(dim=1)
    return {
        "layer": LAYER,
        "error": [float(value) for value in error],
        "gap": span.gap,
        "defects": [float(value) for value in span.defects],
        "rank": rank,
        "alteration": float((dweight - clean).norm() / clean.norm()),
        "cpu_seconds": seconds,
    }


def sigma_of(seen: lg.Observation) -> float:
    """Return the error of the layer's entries that the adversary knows or estimates, beside rounding."""
    problem = read_problem(seen)
    if isinstance(problem, lg.Inapplicable):
        return 0.0
    errors = errors_of(seen, problem)
    return 0.0 if errors is None else errors.entries[f"{LAYER}.weight"].alike / problem.unit


def inputs_of(model: nn.Module, images: Tensor) -> tuple[Tensor, Geometry]:
    """Return the true inputs (B, C, N) of the layer in float64, and the places that it reads."""
    seen: list[Tensor] = []
    layer = model.get_submodule(LAYER)
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(images)
    hook.remove()
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    size = tuple(seen[0].shape[2:])
    geometry = geometry_of(
        size, kernel=layer.kernel_size, stride=layer.stride, padding=layer.padding
    )
    return seen[0].double().flatten(2), geometry


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    spans = sorted((r for r in rows if r["part"] == "span"), key=span_key)
    lines = []
    for (size, _, altered), group in groupby(spans, span_key):
        error = every(list(group), "error")
        lines.append([size, altered, len(error), f"{median(error):.1e}", f"{max(error):.1e}"])
    table(["batch", "alteration", "n", "median error", "largest"], lines)
    changed = altered_table(rows)
    whole = sorted((r for r in rows if r["part"] == "images"), key=key_of)
    heads = [
        "network",
        "state",
        "method",
        "B",
        "labels",
        "n",
        "median dB",
        "least",
        "control",
        "LPIPS",
    ]
    heads += [*(f">= {least} dB" for least in EXACT), "read", "CPU s", "reached"]
    table(heads, [[*key, *figures(list(group))] for key, group in groupby(whole, key_of)])
    for row in [*whole, *changed]:
        if row["status"] in ("failed", "inapplicable"):
            print(f"{row['job']}: {row['message']}")


def span_key(row: Row) -> tuple[int, int, str]:
    """Return the fields that name a line of the span's table."""
    return row["size"], ALTERED.index(row["altered"]), row["altered"]


def key_of(row: Row) -> tuple[str, str, str, int, str]:
    """Return the fields that name a line of the attack's table."""
    return row["network"], row["state"], row["method"], row["size"], row["labels"]


def figures(some: list[Row]) -> list[str]:
    """Return the columns of the attack's table for the rows of one line."""
    psnr = every(some, "psnr")
    if not psnr:
        return ["0", *["-"] * (len(EXACT) + 7)]
    texts = [str(len(psnr)), f"{median(psnr):.1f}", f"{min(psnr):.1f}"]
    texts.append(f"{median(every(some, 'control_psnr')):.1f}")
    seen = every(some, "lpips")
    texts.append(f"{median(seen):.2f}" if seen else "-")
    texts += [f"{sum(value >= least for value in psnr)}" for least in EXACT]
    texts.append(str(sum(row.get("read") or 0 for row in some)))
    texts.append(f"{median(row['cpu_seconds'] for row in some if 'cpu_seconds' in row):.0f}")
    return [*texts, " ".join(sorted({row.get("reached") or "-" for row in some}))]


if __name__ == "__main__":
    main()
