"""Exact attacks beside gradient matching on the same updates, and the defenses under which exactness ends.

First: time and quality by network, batch and labels, of each applicable exact attack and of
gradient matching. The name of a matching attack tells its number of steps. Labels are granted to
all attacks, without their order. Matching needs them, and most exact attacks do not. Equal labels
are those of the first image, given to all. Seconds are the process's own, on one thread. The
control is the same reconstruction, scored against other images.

Then: each exact attack on one network, under defenses that the adversary knows. For an update of
several local steps, each row has the attack's own reason why it cannot run, and its result on one
gradient. That gradient is the weights' difference over rate and steps. Jobs are in the order of
their draw, so a run that is cut has the first draw of each.

Quick: all attacks on one batch of 16 equal labels of the MLP, peeling on the FedAvg CNN, and SPEAR
under noise and local steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from common import Options, Row, run_jobs, share, table
from exact_cells import (
    ATTACKS,
    CELLS,
    DEFENDED,
    DEFENSES,
    FEATURES,
    READERS,
    STEPS,
    Cell,
)
from problems import chosen, client_of, images, scored_beside
from unmixing import READ, features_of
from unmixing import score as features_score

import leakgauge as lg
from leakgauge import attacks, models
from leakgauge.analytic.last_layer import recover_features
from leakgauge.federated.training.local_steps import as_one_gradient

NAME = "exact_attacks"
EXACT = 60.0
"""PSNR (dB) from which an image counts as exact: an error below an eighth of a gray level."""


@dataclass(frozen=True)
class Job:
    """One attack on one update."""

    part: str
    cell: str
    attack: str
    draw: int
    defense: str = "none"


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs of both parts."""
    if given.quick:
        headline = "MLP, batch 16, equal"
        found = [Job("beside", headline, attack, 0) for attack in CELLS[headline].tried]
        found.append(Job("beside", "FedAvg CNN, batch 1", "peeling", 0))
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
    return sorted(found, key=turn)


def turn(job: Job) -> float:
    """Return when a job runs: fast exact attacks without a defense first, then by draw, ResNet-20 later."""
    if job.cell.startswith("ResNet"):
        return job.draw + 1.5
    quick = job.part == "beside" and job.attack in (
        "R-GAP",
        "peeling",
        "APRIL",
        "SPEAR++",
        *READERS,
    )
    return -1 if quick else job.draw


def run(job: Job, given: Options) -> Row:
    """Attack one update, and score it."""
    cell = (CELLS if job.part == "beside" else DEFENDED)[job.cell]
    seed = given.seed + job.draw
    data, held, others = drawn(images(given.data), cell, lg.Seeds(seed))
    batch, seen = observed(data, cell, held, job.defense, seed)
    row: Row = {**vars(job), "seed": seed, "images": held}
    if job.attack == FEATURES:
        return row | features(seen, batch, seed)
    attack = ATTACKS[job.attack]
    plan = attack.plan(seen)
    row["reason"] = reason_of(plan)
    if seen.update.kind == "delta":
        attack = attacks.OneGradient(attack=attack)
        plan = attack.plan(seen)
    if isinstance(plan, lg.Inapplicable):
        return row | {"reason": plan.reason, "psnr": None}
    clock = time.process_time()
    guess = attack(seen, seeds=lg.Seeds(seed))
    own = time.process_time() - clock
    other = chosen(data, others, cell.precision)
    row |= scored_beside(data, batch, other, guess) | {"seconds": own}
    return row | {"message": guess.message, "notes": guess.notes}


def reason_of(plan: lg.Plan | lg.Inapplicable) -> str | None:
    """Return why the attack cannot run, or None if it can."""
    return plan.reason if isinstance(plan, lg.Inapplicable) else None


def drawn(data: lg.Dataset, cell: Cell, seeds: lg.Seeds) -> tuple[lg.Dataset, list[int], list[int]]:
    """Return the labeled data, the indices of the batch's random images, and of equally many others, wrapped around."""
    order = torch.randperm(len(data), generator=seeds.generator(f"batch/{cell.size}")).tolist()
    if cell.labels == "distinct":
        first: dict[int, int] = {}
        for i in order:
            first.setdefault(int(data.targets[i]), i)
        order = [*first.values(), *(i for i in order if i not in first.values())]
    held, others = order[: cell.size], (order * 2)[cell.size : 2 * cell.size]
    if cell.labels == "equal":
        label = int(data.targets[held[0]])
        data = replace(data, targets=torch.full_like(data.targets, label))
    return data, held, others


def observed(
    data: lg.Dataset, cell: Cell, held: list[int], defense: str, seed: int
) -> tuple[lg.Batch, lg.Observation]:
    """Return the batch, and what a server sees that is granted the labels and knows the defense."""
    network = models.build(cell.network, data.domain, 10, seed=seed).to(cell.precision)
    client = client_of(data, network, training=STEPS.get(defense), defense=DEFENSES.get(defense))
    batch = chosen(data, held, cell.precision)
    return batch, lg.Server(labels=True).observe(client, batch, seeds=lg.Seeds(seed))


def features(seen: lg.Observation, batch: lg.Batch, seed: int) -> Row:
    """Return the features that softmax unmixing reads before any descent, with their errors."""
    reason = reason_of(ATTACKS["softmax unmixing"].plan(seen))
    seen = as_one_gradient(seen)
    clock = time.process_time()
    found = recover_features(seen, lg.Seeds(seed).generator("unmixing"))
    row: Row = {"reason": reason, "psnr": None, "seconds": time.process_time() - clock}
    if isinstance(found, lg.Inapplicable):
        return row | {"reason": found.reason}
    return row | features_score(found, features_of(seen.model, batch.inputs), batch.targets)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print_beside([row for row in rows if row["part"] == "beside"])
    print()
    print_defended([row for row in rows if row["part"] == "defended"])


def grouped(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of `keys`."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def print_beside(rows: list[Row]) -> None:
    """Print one line for each attack in each cell, in the order of the cells."""
    place = {
        (name, a): (i, j)
        for i, (name, cell) in enumerate(CELLS.items())
        for j, a in enumerate(cell.tried)
    }
    rows = sorted(rows, key=lambda row: place.get((row["cell"], row["attack"]), (99, 99)))
    headings = ["median dB", "least dB", "control dB", f">= {EXACT:g} dB", "certified", "residual"]
    table(
        ["cell", "attack", "batches", *headings, "seconds"],
        [
            [*key, len(group), *summary(group), f"{median(row['seconds'] for row in group):.1f}"]
            for key, group in grouped(rows, "cell", "attack").items()
        ],
    )


def summary(rows: list[Row]) -> list[str]:
    """Return the figures over all images of these batches."""
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
    """Print one line for each attack and network with a column for each defense, then reasons for several steps."""
    names = [name for name in (*DEFENSES, *STEPS) if any(row["defense"] == name for row in rows)]
    lines = []
    for (attack, cell), group in grouped(rows, "attack", "cell").items():
        by = grouped(group, "defense")
        lines.append([attack, cell, *(format_entry(by.get((name,), [])) for name in names)])
    print(
        f"A cell has the median dB, and the images of at least {EXACT:g} dB. "
        f"For features it has the median relative error, and the errors of at most {READ:g}."
    )
    table(["attack", "cell", *names], lines)
    reasons = {(row["attack"], row["reason"]): None for row in rows if row["reason"] is not None}
    for attack, reason in reasons:
        print(f"{attack}: {reason}")


def format_entry(rows: list[Row]) -> str:
    """Return one entry: the quality, and how many images are exact."""
    psnr = [value for row in rows for value in row["psnr"] or []]
    errors = [value for row in rows for value in row.get("error") or []]
    if psnr:
        return f"{median(psnr):.0f}, {sum(value >= EXACT for value in psnr)}/{len(psnr)}"
    if errors:
        return f"{median(errors):.0e}, {sum(value <= READ for value in errors)}/{len(errors)}"
    return "inapplicable" if rows else "-"


if __name__ == "__main__":
    main()
