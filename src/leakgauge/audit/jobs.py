"""The units of work of an audit: every cell, then every training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leakgauge.audit.case import Case, Cell, cells
from leakgauge.audit.cell import bare_cell, failed_cell, run_cell
from leakgauge.audit.failures import Failed
from leakgauge.audit.fitting import RecordTooLong, fitted
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
    """All of them, by index, in the order of the plan."""
    planned: list[Job] = list(cells(cases))
    return [*planned, *trainings(cases, len(planned))]


def run_job(job: Job, root: int, progress: Progress = silent) -> JobResult:
    """Run one of an audit whose root seed is `root`; `progress` is told the fraction done, in [0, 1].

    What ends it becomes its record. Only what `progress` raises passes, and Ctrl-C.
    """
    run: Any = run_cell if isinstance(job, Cell) else run_training
    result: JobResult = run_with_progress(progress, lambda told: run(job, root, told))
    try:
        return fitted(result)
    except RecordTooLong as error:
        return without_details(job, root, Failed("metric", error))


def without_details(job: Job, root: int, failed: Failed) -> JobResult:
    """Return the result of a job that `failed` ended, with a record of a few hundred bytes."""
    bare: Any = bare_cell if isinstance(job, Cell) else bare_training
    result: JobResult = bare(job, root, failed)
    return result


class WorkerLost(LeakGaugeError):
    """The process of a job ended before it had a result, twice."""


def lost_job(job: Job, root: int, how: str) -> JobResult:
    """Return the result of a job whose processes ended, the last one as `how` says."""
    failed = Failed("worker", WorkerLost(f"its process ended twice, the last time {how}"))
    fail: Any = failed_cell if isinstance(job, Cell) else failed_training
    result: JobResult = fail(job, root, failed)
    return result
