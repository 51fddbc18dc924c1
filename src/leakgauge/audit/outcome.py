"""The record of a cell: scores, blind control, pictures and trajectory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

from torch import Tensor

from leakgauge import records
from leakgauge.audit.failures import Failed
from leakgauge.audit.scores import score
from leakgauge.audit.verdict import judged, unjudged
from leakgauge.core import (
    Cost,
    DataError,
    Domain,
    Reconstruction,
    Snapshot,
    Status,
    kinds,
    nearest_examples,
)
from leakgauge.core.summaries import Summarized
from leakgauge.federated import Batch
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities import Content, Metric, Modality, modality_of
from leakgauge.records import Cell, Control, Described, Moment

MOST_TEXT = 10_000
"""Largest number of characters of an attack's message or note in its record."""
STRIP = 8
"""Largest number of pictures in the strip that shows the trajectory of a reconstruction."""


def unscored_record(
    description: Described,
    rule: LeakRule | None,
    status: Status,
    message: str,
    failed: Failed | None = None,
    cost: records.Cost | None = None,
) -> Cell:
    """Return the record of a cell that has no scores: its attack could not run, or `failed` ended it.

    Args:
        description: Description of the cell.
        rule: Rule that would have judged the cell, or None if there is none.
        status: Status of the attack.
        message: Reason why there are no scores.
        failed: Failure that ended the cell, or None if there was none.
        cost: What the attack spent. None, the default, is nothing.
    """
    return Cell(
        **dict(description),
        status=status.value,
        message=message,
        verdict=unjudged(rule, status),
        failure=failed.record(description.index) if failed else None,
        cost=cost or records.Cost(),
    )


@dataclass(frozen=True, repr=False)
class Judged(Summarized):
    """A reconstruction with its scores.

    Args:
        found: The reconstruction.
        order: Index of the reconstructed example that is compared with each private example, `(B,)`.
        scores: Values of each metric, one for each private example. None if a metric does not apply.
    """

    found: Reconstruction
    order: Tensor
    scores: dict[str, list[float] | None]

    @property
    def inputs(self) -> Tensor:
        """Reconstructed inputs `(B, *shape)` in the order of the private batch."""
        return self.found.inputs[self.order]


@dataclass(frozen=True, repr=False)
class Judge(Summarized):
    """Scorer of reconstructions of a private batch.

    Args:
        domain: Domain of the examples.
        batch: The private batch.
        pool: Other inputs `(N, *shape)`. A reconstruction should be nearer to its original than to any of them.
        labels_granted: Whether the threat model grants the labels. Granted labels are not scored.
    """

    domain: Domain
    batch: Batch
    pool: Tensor
    labels_granted: bool

    @property
    def modality(self) -> Modality:
        """The modality of the domain. It says how examples are scored, judged and shown."""
        return modality_of(self.domain)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that apply to the domain, by name."""
        return self.modality.metrics(self.domain, self.pool)

    def __call__(self, found: Reconstruction) -> Judged:
        """Return the reconstruction with its scores."""
        order = self.modality.assignment(self.domain, self.batch.inputs, found.inputs)
        scores = score(
            self.domain,
            self.batch,
            found,
            order,
            self.metrics,
            labels_granted=self.labels_granted,
        )
        return Judged(found, order, scores)


def scored_record(
    description: Described,
    judge: Judge,
    guess: Judged,
    control: Judged | Failed,
    shown: Pictures,
    drawn: Batches,
) -> Cell:
    """Return the record of a cell whose attack ran.

    Args:
        description: Description of the cell.
        judge: The scorer of both reconstructions.
        guess: The reconstruction of the private batch.
        control: The reconstruction of the blind control, or its failure.
        shown: Pictures and trajectory.
        drawn: The batches of the cell.
    """
    found, failed = guess.found, control if isinstance(control, Failed) else None
    flags = tuple(map(bool, found.found[guess.order].tolist()))
    blind = control_record(control, drawn.decoy_is)
    scores = applicable_scores(guess)
    identified = len(judge.batch) + len(judge.pool) if "iip_pixels" in scores else None
    return Cell(
        **dict(description),
        status=found.status.value,
        message=text(found.message),
        notes=(*drawn.notes, *map(text, found.notes)),
        verdict=judged(
            judge.modality.rule,
            scores,
            blind.scores,
            flags,
            better=judge.modality.headline.better,
        ),
        scores=scores,
        control=blind,
        found=flags,
        residual=plain(found.residual),
        objectives=tuple(map(plain, found.objectives)),
        restart=plain(found.restart),
        perceptual=judge.modality.compared_by(judge.domain),
        candidates=identified,
        trajectory=shown.trajectory,
        images=shown.content.images,
        rows=shown.content.rows,
        sentences=shown.content.sentences,
        cost=cost_record(found.cost),
        control_cost=cost_record(Cost() if isinstance(control, Failed) else control.found.cost),
        failure=failed.record(description.index) if failed else None,
    )


def applicable_scores(guess: Judged) -> dict[str, tuple[float | None, ...]]:
    """Return the scores for a record, without the metrics that do not apply."""
    return {name: tuple(values) for name, values in guess.scores.items() if values is not None}


def plain(number: Any) -> Any:
    """Return a Python number for a tensor or NumPy array of one number. A user's attack may return either."""
    return (
        number.item()
        if getattr(number, "size", None) == 1 or isinstance(number, Tensor)
        else number
    )


def text(value: object) -> str:
    """Return a message or note of an attack, cut to MOST_TEXT characters."""
    whole = str(value)
    return whole if len(whole) <= MOST_TEXT else f"{whole[: MOST_TEXT - 4]} ..."


def cost_record(cost: Cost) -> records.Cost:
    """Return the record of a cost."""
    return records.Cost(evaluations=cost.evaluations, seconds=cost.seconds)


def control_record(control: Judged | Failed, kind: str) -> Control:
    """Return the record of the blind control.

    A failed control has no scores, so nothing is judged by it.

    Args:
        control: The reconstruction of the control's batch, or the failure that prevented it.
        kind: Examples of the control's batch, in words.
    """
    kind = f"the same attack on an update of {kind}"
    if isinstance(control, Failed):
        return Control(kind=kind, scores={}, status="failed", message=str(control))
    found = control.found
    return Control(
        kind=kind,
        scores=applicable_scores(control),
        status=found.status.value,
        message=text(found.message),
    )


class Batches(Protocol):
    """The facts about the drawn batches that a record states."""

    @property
    def decoy_is(self) -> str:
        """Examples of the blind control's batch, in words."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the record."""
        ...


@dataclass(frozen=True, repr=False)
class Pictures(Summarized):
    """Pictures, rows and sentences for the reader of a report.

    Args:
        trajectory: Snapshots along the run of the attack.
        content: Images, rows or sentences of the examples.
        files: Contents of the image files, by path in the run's folder.
    """

    trajectory: tuple[Moment, ...]
    content: Content
    files: dict[str, bytes]


def show(index: int, judge: Judge, guess: Judged, control: Judged | Failed) -> Pictures:
    """Return the trajectory and the pictures or rows of the examples, as the domain's modality shows them."""
    files: dict[str, bytes] = {}
    sides = {"original": judge.batch.inputs, "reconstruction": guess.inputs}
    sides["control"] = judge.batch.inputs[:0] if isinstance(control, Failed) else control.inputs
    content = judge.modality.content_of(judge.domain, sides, partial(save, files, index))
    if not isinstance(content, Content):
        raise DataError(
            f"{type(judge.modality).__name__}.content",
            expected="a leakgauge.modalities.Content",
            found=kinds.describe_value(content),
            remedy="return Content() if there is nothing to show",
        )
    moments = trajectory(files, index, judge, guess.found.trajectory)
    return Pictures(moments, content, files)


def trajectory(
    files: dict[str, bytes], index: int, judge: Judge, snapshots: Sequence[Snapshot]
) -> tuple[Moment, ...]:
    """Return the records of up to STRIP evenly spaced snapshots. Their scores are only shown, not judged."""
    if not snapshots:
        return ()
    last = len(snapshots) - 1
    chosen = sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})
    return tuple(moment(files, index, judge, i, snapshots[i]) for i in chosen)


def moment(
    files: dict[str, bytes], index: int, judge: Judge, place: int, snapshot: Snapshot
) -> Moment:
    """Return the record of the snapshot at index `place` of the trajectory."""
    domain, truth = judge.domain, judge.batch.inputs
    inputs = nearest_examples(domain, snapshot.inputs)
    inputs = inputs[judge.modality.assignment(domain, truth, inputs)]
    psnr = judge.metrics.get("psnr")
    values = (
        None
        if psnr is None
        else psnr(
            judge.modality.coordinates(domain, truth), judge.modality.in_range(domain, inputs)
        )
    )
    picture = judge.modality.glance(inputs)
    image = None
    if picture is not None:
        image = save(files, index, f"trajectory-{place:02d}.png", picture)
    return Moment(
        evaluations=snapshot.evaluations,
        objective=plain(snapshot.objective),
        psnr=None if values is None else float(values.median()),
        image=image,
    )


PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
"""File names that every file system accepts. They have no folder, and no dot at either end."""
LONGEST_FILE = 100
"""Largest number of characters of a file name."""


def save(files: dict[str, bytes], index: int, name: str, content: bytes) -> str:
    """Keep a file in the folder of its cell. Return its path in the run's folder.

    Raises:
        DataError: A user's modality gave a name that is not plain, or contents that are not bytes.
    """
    if not isinstance(name, str) or len(name) > LONGEST_FILE or not PLAIN.fullmatch(name):
        raise DataError(
            "save",
            expected=f"a plain file name of at most {LONGEST_FILE} letters A to Z, digits, dots, - and _",
            found=kinds.describe_value(name),
            remedy="give a name without a folder, for example original-0.png",
        )
    if not isinstance(content, bytes):
        raise DataError(
            f"save({name!r})",
            expected="bytes",
            found=kinds.describe_value(content),
            remedy="encode the picture, for example as PNG",
        )
    path = f"images/{index:03d}/{name}"
    files[path] = content
    return path
