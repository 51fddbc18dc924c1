"""The jobs of an audit: every cell, then every training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leakgauge.audit.case import Case, Cell, cells
from leakgauge.audit.cell import bare_cell, failed_cell, run_cell
from leakgauge.audit.failures import Failed
from leakgauge.audit.fitting import RecordTooLong, shorten
from leakgauge.audit.folder import JobResult
from leakgauge.audit.training import (
    TrainingRun,
    bare_training,
    failed_training,
    run_training,
    trainings,
)
from leakgauge.core import LeakGaugeError, Progress, silent
from leakgauge.core.progress import run_with_progress

Job = Cell | TrainingRun


def jobs(cases: Sequence[Case]) -> list[Job]:
    """Return all jobs of the cases, in the order of the plan. A job's place in the list is its index."""
    planned: list[Job] = list(cells(cases))
    return [*planned, *trainings(cases, len(planned))]


def run_job(job: Job, root: int, progress: Progress = silent) -> JobResult:
    """Run one job and return its result.

    A failure of the job becomes a record. Ctrl-C and exceptions of `progress` are raised.

    Args:
        job: The job.
        root: Root seed of the audit.
        progress: Function that receives each Moment, with the fraction of the job that is done, in [0, 1].
    """
    run: Any = run_cell if isinstance(job, Cell) else run_training
    result: JobResult = run_with_progress(progress, lambda report: run(job, root, report))
    try:
        return shorten(result)
    except RecordTooLong as error:
        return without_details(job, root, Failed("metric", error))


def without_details(job: Job, root: int, failed: Failed) -> JobResult:
    """Return the result of a job that `failed` ended. Its record has only a few hundred bytes."""
    bare: Any = bare_cell if isinstance(job, Cell) else bare_training
    result: JobResult = bare(job, root, failed)
    return result


class WorkerLost(LeakGaugeError):
    """The process of a job ended twice before the job had a result."""


def lost_job(job: Job, root: int, how: str) -> JobResult:
    """Return the result of a job whose processes ended before it had a result.

    Args:
        job: The job.
        root: Root seed of the audit.
        how: How the last process ended, in words.
    """
    failed = Failed("worker", WorkerLost(f"its process ended twice, the last time {how}"))
    fail: Any = failed_cell if isinstance(job, Cell) else failed_training
    result: JobResult = fail(job, root, failed)
    return result
