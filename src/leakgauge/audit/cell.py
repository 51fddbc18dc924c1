"""One cell: attack the private batch, attack the blind control, score both, write it down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from leakgauge import metrics
from leakgauge.audit.case import Cell
from leakgauge.audit.naming import attack_name, defense_record, name_of
from leakgauge.audit.options import snake
from leakgauge.audit.pictures import picture, tile
from leakgauge.audit.records import JobResult
from leakgauge.audit.scores import assignment, in_range, metrics_of, perceptual, score
from leakgauge.core import (
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Status,
    silent,
)
from leakgauge.federated import Batch

STRIP = 8
"""Pictures in the strip that shows the course of a reconstruction."""
POOL = 100
"""Other examples, at most, among which a guess must point at its own original."""


def run_cell(cell: Cell, root: int, progress: Progress = silent) -> JobResult:
    """Run one cell of an audit whose root seed is `root`; `progress` is told the share done, in [0, 1]."""
    seeds = Seeds(root).child(cell.observation_path)
    drawn = draw(cell, Seeds(root).child(cell.case.name))
    client = cell.case.client(cell.defense)
    observation = cell.case.threat.observe(client, drawn.batch, seeds=seeds.child("observed"))
    result = JobResult(cell.index, describe(cell, drawn, root))
    reason = cell.attack.inapplicable(observation)
    if reason is not None:
        result.record |= empty(reason)
        return result
    own = seeds.child("attack").child(repr(cell.attack))
    guess = cell.attack(observation, seeds=own, progress=lambda share: progress(share / 2))
    blind = cell.case.threat.observe(client, drawn.decoy, seeds=seeds.child("control"))
    control = cell.attack(
        blind, seeds=own.child("control"), progress=lambda share: progress(0.5 + share / 2)
    )
    fill(result, cell, drawn, guess, control)
    return result


@dataclass(frozen=True)
class Drawn:
    """The private batch, a batch independent of it whose update is the blind control's, and other inputs."""

    indices: list[int]
    batch: Batch
    decoy: Batch
    decoy_is: str
    pool: Tensor


def draw(cell: Cell, seeds: Seeds) -> Drawn:
    """Draw both. Where labels are granted, the control is granted the same: its examples bear them."""
    case = cell.case
    private, others = case.indices(cell.batch_size, cell.repeat, seeds)
    batch = case.batch(private)
    if others:
        decoy, kind = case.batch(others), "other examples of the same data set"
    else:
        generator = seeds.generator("decoy")
        unit = torch.rand((len(batch), *case.data.domain.shape), generator=generator)
        labels = torch.randint(case.data.classes or 1, (len(batch),), generator=generator)
        decoy = Batch(case.data.domain.from_unit(unit), labels)
        kind = "uniform random examples (the data set holds too few others)"
    if case.labels_granted:
        decoy = Batch(decoy.inputs, batch.targets)
    pool = case.order(cell.batch_size, cell.repeat, seeds)[cell.batch_size :][:POOL]
    return Drawn(private, batch, decoy, kind, case.batch(pool).inputs)


def describe(cell: Cell, drawn: Drawn, root: int) -> dict[str, Any]:
    """What was attacked, with what, knowing what: everything that is known before the attack."""
    case, data, defense = cell.case, cell.case.data, cell.defense
    labels = drawn.batch.targets.tolist()
    columns = getattr(data.domain, "columns", None)
    attack = attack_name(cell.attack)
    return {
        "type": "cell",
        "id": f"{cell.index:03d}/{case.name}/b{cell.batch_size}/r{cell.repeat}/{name_of(defense)}/{attack}",
        "case": case.name,
        "data": {
            "name": data.name,
            "kind": data.domain.kind,
            "licence": data.licence,
            "examples": drawn.indices,
            "labels": labels,
            "label_names": [data.class_names[i] for i in labels] if data.class_names else None,
            "columns": [asdict(column) for column in columns] if columns else None,
        },
        "model": case.model_record,
        "training": case.training_record,
        "batch_size": cell.batch_size,
        "repeat": cell.repeat,
        "defense": defense_record(defense),
        "attack": {"name": attack, "repr": repr(cell.attack)},
        "threat": {
            "name": snake(type(case.threat).__name__),
            "grants": sorted(case.threat.grants),
            "always": ["model", "protocol", "update"],
        },
        "seed": root,
    }


def empty(reason: str) -> dict[str, Any]:
    """The rest of a record whose attack could not run."""
    return {
        "status": str(Status.INAPPLICABLE),
        "message": reason,
        "notes": [],
        "objectives": [],
        "trial": 0,
        "residual": None,
        "scores": None,
        "perceptual": None,
        "candidates": None,
        "control": None,
        "found": [],
        "course": [],
        "images": None,
        "rows": None,
        "cost": {"evaluations": 0, "seconds": 0.0},
        "control_cost": {"evaluations": 0, "seconds": 0.0},
    }


def fill(
    result: JobResult,
    cell: Cell,
    drawn: Drawn,
    guess: Reconstruction,
    control: Reconstruction,
) -> None:
    """Score guess and control against the truth, and add both to the record."""
    domain, batch = cell.case.data.domain, drawn.batch
    granted = cell.case.labels_granted
    order = assignment(domain, batch.inputs, guess.inputs)
    blind_order = assignment(domain, batch.inputs, control.inputs)
    chosen = metrics_of(domain, drawn.pool)
    scores = score(domain, batch, guess, order, chosen, labels_granted=granted)
    blind = score(domain, batch, control, blind_order, chosen, labels_granted=granted)
    result.record |= {
        "status": str(guess.status),
        "message": guess.message,
        "notes": list(guess.notes),
        "objectives": [finite(value) for value in guess.objectives],
        "trial": guess.trial,
        "residual": finite(guess.residual),
        "scores": scores,
        "perceptual": perceptual(domain),
        "candidates": len(batch) + len(drawn.pool) if "iip_pixels" in scores else None,
        "control": {
            "kind": f"the same attack on an update of {drawn.decoy_is}",
            "scores": blind,
            "status": str(control.status),
        },
        "found": guess.found[order].tolist(),
        "course": course(result, cell, batch, guess.course),
        "images": None,
        "rows": None,
        "cost": asdict(guess.cost),
        "control_cost": asdict(control.cost),
    }
    show(result, domain.kind, batch.inputs, guess.inputs[order], control.inputs[blind_order])


def show(result: JobResult, kind: str, original: Tensor, guess: Tensor, control: Tensor) -> None:
    """Pictures of images, rows of tables; a domain of another kind is told by its scores alone."""
    sides = {"original": original, "reconstruction": guess, "control": control}
    if kind == "image":
        result.record["images"] = {
            side: [save(result, f"{side}-{i}", x) for i, x in enumerate(values)]
            for side, values in sides.items()
        }
    elif kind == "table":
        result.record["rows"] = {
            side: [[finite(value) for value in row] for row in values.tolist()]
            for side, values in sides.items()
        }


def course(
    result: JobResult, cell: Cell, batch: Batch, snapshots: Sequence[Snapshot]
) -> list[dict[str, Any]]:
    """Up to STRIP snapshots, evenly along the kept ones, each scored for the reader's eyes alone."""
    if not snapshots:
        return []
    domain = cell.case.data.domain
    last = len(snapshots) - 1
    chosen = sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})
    entries = []
    for i in chosen:
        snapshot = snapshots[i]
        order = assignment(domain, batch.inputs, snapshot.inputs)
        values = metrics.psnr(
            domain.to_unit(batch.inputs), in_range(domain, snapshot.inputs[order])
        )
        image = None
        if domain.kind == "image":
            image = save(result, f"course-{i:02d}", tile(snapshot.inputs[order]))
        entries.append(
            {
                "evaluations": snapshot.evaluations,
                "objective": finite(snapshot.objective),
                "psnr": float(values.median()),
                "image": image,
            }
        )
    return entries


def save(result: JobResult, name: str, image: Tensor) -> str:
    """Keep a PNG under the cell's own folder; returns its path in the run's folder."""
    path = f"images/{result.index:03d}/{name}.png"
    result.pictures[path] = picture(image)
    return path


def finite(value: float | None) -> float | None:
    """JSON has no infinities: None stands for a value that is not finite."""
    return value if value is not None and math.isfinite(value) else None
