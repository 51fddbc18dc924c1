"""What a cell found, as its record holds it: scores, the blind control, pictures, the course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from leakgauge import metrics
from leakgauge.audit.failures import Failed
from leakgauge.audit.pictures import picture, tile
from leakgauge.audit.records import JobResult
from leakgauge.audit.scores import Metric, assignment, in_range, metrics_of, perceptual, score
from leakgauge.core import Cost, Domain, Reconstruction, Snapshot, Status
from leakgauge.core.summaries import Summarized
from leakgauge.federated import Batch

STRIP = 8
"""Pictures in the strip that shows the course of a reconstruction."""


def unscored(status: Status, message: str) -> dict[str, Any]:
    """Return the outcome of a cell that has no scores: its attack could not run, or failed."""
    return {
        "status": str(status),
        "message": message,
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
        "cost": asdict(Cost()),
        "control_cost": asdict(Cost()),
        "failure": None,
    }


@dataclass(frozen=True, repr=False)
class Judged(Summarized):
    """A reconstruction, which of its guesses stands for which private example (B,), and its scores."""

    found: Reconstruction
    order: Tensor
    scores: dict[str, list[float] | None]

    @property
    def inputs(self) -> Tensor:
        """Guesses (B, *shape) in the order of the private batch."""
        return self.found.inputs[self.order]


@dataclass(frozen=True, repr=False)
class Judge(Summarized):
    """Scores reconstructions of `batch`. `pool` (N, *shape): other inputs that a guess must not point at."""

    domain: Domain
    batch: Batch
    pool: Tensor
    labels_granted: bool

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that mean something here, by name."""
        return metrics_of(self.domain, self.pool)

    def __call__(self, found: Reconstruction) -> Judged:
        """Return the reconstruction with its scores."""
        order = assignment(self.domain, self.batch.inputs, found.inputs)
        scores = score(
            self.domain,
            self.batch,
            found,
            order,
            self.metrics,
            labels_granted=self.labels_granted,
        )
        return Judged(found, order, scores)


def scored(judge: Judge, guess: Judged, control: Judged | Failed, kind: str) -> dict[str, Any]:
    """Return the outcome of a cell but for its pictures. `kind`: of which examples the control's update is."""
    found = guess.found
    return unscored(found.status, found.message) | {
        "notes": [str(note) for note in found.notes],
        "objectives": list(found.objectives),
        "trial": found.trial,
        "residual": found.residual,
        "scores": guess.scores,
        "perceptual": perceptual(judge.domain),
        "candidates": len(judge.batch) + len(judge.pool) if "iip_pixels" in guess.scores else None,
        "control": control_record(control, kind),
        "found": found.found[guess.order].tolist(),
        "cost": asdict(found.cost),
        "control_cost": asdict(Cost() if isinstance(control, Failed) else control.found.cost),
    }


def control_record(control: Judged | Failed, kind: str) -> dict[str, Any]:
    """Return the blind control as a record holds it. One that failed has no scores, so that nothing is judged by it."""
    record = {"kind": f"the same attack on an update of {kind}"}
    if isinstance(control, Failed):
        return record | {"scores": None, "status": str(Status.FAILED), "message": str(control)}
    status, message = control.found.status, control.found.message
    return record | {"scores": control.scores, "status": str(status), "message": message}


def show(result: JobResult, judge: Judge, guess: Judged, control: Judged | Failed) -> None:
    """Add the course, and pictures of images or rows of tables. Other domains are told by their scores alone."""
    result.record["course"] = course(result, judge, guess.found.course)
    sides = {"original": judge.batch.inputs, "reconstruction": guess.inputs}
    if not isinstance(control, Failed):
        sides["control"] = control.inputs
    if judge.domain.kind == "image":
        result.record["images"] = {
            side: [save(result, f"{side}-{i}", x) for i, x in enumerate(values)]
            for side, values in sides.items()
        }
    elif judge.domain.kind == "table":
        result.record["rows"] = {side: values.tolist() for side, values in sides.items()}


def course(result: JobResult, judge: Judge, snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Return up to STRIP snapshots, evenly along the kept ones, each scored for the reader's eyes alone."""
    if not snapshots:
        return []
    domain, truth = judge.domain, judge.batch.inputs
    last = len(snapshots) - 1
    chosen = sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})
    entries = []
    for i in chosen:
        snapshot = snapshots[i]
        order = assignment(domain, truth, snapshot.inputs)
        values = metrics.psnr(domain.to_unit(truth), in_range(domain, snapshot.inputs[order]))
        image = None
        if domain.kind == "image":
            image = save(result, f"course-{i:02d}", tile(snapshot.inputs[order]))
        entries.append(
            {
                "evaluations": snapshot.evaluations,
                "objective": snapshot.objective,
                "psnr": float(values.median()),
                "image": image,
            }
        )
    return entries


def save(result: JobResult, name: str, image: Tensor) -> str:
    """Keep a PNG under the cell's own folder. Return its path in the run's folder."""
    path = f"images/{result.index:03d}/{name}.png"
    result.files[path] = picture(image)
    return path
