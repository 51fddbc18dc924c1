"""One cell: attack the private batch and the blind control, score both, and make the record."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge import records
from leakgauge.audit.attempt import attempt, make_plan
from leakgauge.audit.case import Cell
from leakgauge.audit.description import describe, describe_drawn, describe_minimally
from leakgauge.audit.duplicates import equal_examples, select_differing
from leakgauge.audit.failures import LONGEST, Failed, failed_result, step, try_step
from leakgauge.audit.folder import JobResult
from leakgauge.audit.outcome import (
    Judge,
    Judged,
    cost_record,
    scored_record,
    show,
    text,
    unscored_record,
)
from leakgauge.core import Inapplicable, Progress, Seeds, Status, scale_progress, silent, space_of
from leakgauge.core.lines import one_line
from leakgauge.core.summaries import Summarized
from leakgauge.core.verdicts import report_no_signal
from leakgauge.data import Dataset
from leakgauge.federated import Batch
from leakgauge.modalities import modality_of
from leakgauge.records import Described
from leakgauge.threats import observed

POOL = 100
"""Largest number of other examples among which the original of a reconstruction must be found."""


def run_cell(cell: Cell, root: int, progress: Progress = silent) -> JobResult:
    """Run one cell of an audit and return its result.

    An exception of the model, loss, defense, attack or metric becomes a record with the status FAILED.

    Args:
        cell: The cell.
        root: Root seed of the audit.
        progress: Function that receives each Moment, with the fraction of the cell that is done, in [0, 1].
    """
    try:
        drawn = drawn_for(cell, root)
        # Names and reprs of a user's parts run the user's code, which may also fail between the steps.
        with step("check"):
            return attack_and_score(cell, root, drawn, describe_drawn(cell, root, drawn), progress)
    except Failed as failed:
        return failed_cell(cell, root, failed)


def drawn_for(cell: Cell, root: int) -> Drawn:
    """Return the batches of a cell. Raise Failed if they cannot be drawn."""
    with step("data"):
        return draw(cell, Seeds(root).child(cell.case.name))


def failed_cell(cell: Cell, root: int, failed: Failed) -> JobResult:
    """Return the result of a cell that `failed` ended before it had scores.

    Its record describes as many parts of the cell as possible.
    """

    def record(description: Described) -> records.Cell:
        rule = modality_of(cell.case.data.domain).rule
        return unscored_record(description, rule, Status.FAILED, str(failed), failed)

    ways = (
        lambda: record(describe_drawn(cell, root, drawn_for(cell, root))),
        lambda: record(describe(cell, root)),
    )
    for way in ways:
        made = try_step("data", way)
        if not isinstance(made, Failed):
            return failed_result(made, failed)
    return bare_cell(cell, root, failed)


def bare_cell(cell: Cell, root: int, failed: Failed) -> JobResult:
    """Return the result of a cell that `failed` ended, without a description of the cell's parts."""
    bare = unscored_record(describe_minimally(cell, root), None, Status.FAILED, str(failed), failed)
    return failed_result(bare, failed)


def attack_and_score(
    cell: Cell, root: int, drawn: Drawn, description: Described, progress: Progress
) -> JobResult:
    """Attack the batch and the blind control, and return the result. Raise Failed if there is nothing to score."""
    case, client = cell.case, cell.case.client(cell.defense)
    domain = case.data.domain
    rule = modality_of(domain).rule
    seeds = Seeds(root).child(cell.observation_path)
    # An attack with the root seed of the audit could draw the private batch and the noise again, so it gets
    # another seed.
    own = Seeds(seeds.child("attack").integer(case.title(cell.attack)))
    with step("update"):
        observation = observed(case.threat, client, drawn.batch, seeds=seeds.child("observed"))
    if not observation.has_signal:
        nothing = report_no_signal(observation)
        return JobResult(unscored_record(description, rule, nothing.status, nothing.message))
    with step("check"):
        plan = make_plan(cell.attack, observation, cell.defense)
        if isinstance(plan, Inapplicable):
            message = one_line(str(plan.reason), LONGEST)
            return JobResult(unscored_record(description, rule, Status.INAPPLICABLE, message))
    count, judge = len(drawn.batch), Judge(domain, drawn.batch, drawn.pool, case.labels_granted)
    with step("attack"):
        found = attempt(
            cell.attack,
            plan,
            observation,
            count,
            cell.defense,
            seeds=own,
            progress=scale_progress(progress, 0.0, 0.5),
        )
    if found.status is Status.INAPPLICABLE:
        # The search itself found out that the attack cannot run. Its inputs are no reconstruction.
        return JobResult(
            unscored_record(
                description, rule, found.status, text(found.message), cost=cost_record(found.cost)
            )
        )
    with step("metric"):
        guess = judge(found)

    def blind() -> Judged:
        update = observed(case.threat, client, drawn.decoy, seeds=seeds.child("control"))
        return judge(
            attempt(
                cell.attack,
                make_plan(cell.attack, update, cell.defense),
                update,
                count,
                cell.defense,
                # The seed has no path. Otherwise an attack could recognize its control and do worse on purpose.
                seeds=Seeds(own.integer("control")),
                progress=scale_progress(progress, 0.5, 0.5),
            )
        )

    control = try_step("control", blind)
    with step("picture"):
        shown = show(cell.index, judge, guess, control)
    with step("metric"):
        record = scored_record(description, judge, guess, control, shown, drawn)
    if isinstance(control, Failed):
        return failed_result(record, control, shown.files)
    return JobResult(record, shown.files)


@dataclass(frozen=True, repr=False)
class Drawn(Summarized):
    """The batches of a cell.

    Args:
        indices: Places of the private examples in the data set.
        batch: The private batch.
        decoy: A batch independent of the private one. The blind control attacks its update.
        decoy_is: The kind of the decoy's examples, in words.
        pool: Other inputs `(N, *shape)` of the data set. N may be 0.
        notes: Notes on equal examples for the record.
    """

    indices: list[int]
    batch: Batch
    decoy: Batch
    decoy_is: str
    pool: Tensor
    notes: tuple[str, ...]


def draw(cell: Cell, seeds: Seeds) -> Drawn:
    """Draw the batches of a cell. If labels are granted, the decoy's labels are those of the private batch."""
    case = cell.case
    private, others = case.indices(cell.batch_size, cell.repeat, seeds)
    batch = case.batch(private)
    if others:
        decoy, kind = case.batch(others), "other examples of the same data set"
    else:
        generator = seeds.generator("decoy")
        drawn = space_of(case.data.domain).sample(len(batch), generator)
        targets = random_targets(case.data, len(batch), generator)
        decoy = Batch(drawn, targets)
        kind = "uniform random examples (the data set has too few other examples that differ)"
    if case.labels_granted:
        decoy = Batch(decoy.inputs, batch.targets)
    pool = case.pool(cell.batch_size, cell.repeat, seeds, POOL)
    first = case.order(cell.batch_size, cell.repeat, seeds)[cell.batch_size : 2 * cell.batch_size]
    left_out = len(first) - len(select_differing(case.data.inputs, private, first, len(first)))
    notes = notes_on(batch, left_out)
    # The pool may be empty. `Case.batch` makes no empty batches, so the inputs are taken from the data.
    return Drawn(private, batch, decoy, kind, case.data.inputs[pool], notes)


def random_targets(data: Dataset, count: int, generator: torch.Generator) -> Tensor:
    """Return targets for `count` examples of noise: random classes, or targets of random examples of the data."""
    if data.classes is not None and data.targets.ndim == 1 and not data.targets.is_floating_point():
        return torch.randint(data.classes, (count,), generator=generator)
    return data.targets[torch.randint(len(data.targets), (count,), generator=generator)]


def notes_on(batch: Batch, left_out: int) -> tuple[str, ...]:
    """Return the notes of a record on equal examples."""
    found = []
    if equal := equal_examples(batch.inputs):
        found.append(
            f"{equal} of the {len(batch)} examples of the batch equal another example of the batch"
        )
    if left_out:
        found.append(
            f"{left_out} other examples of the data set equal an example of the batch. The control leaves them out"
        )
    return tuple(found)
