"""The units of work of an audit: every cell, then every training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leakgauge.audit.case import Case, Cell, cells
from leakgauge.audit.cell import run_cell
from leakgauge.audit.failures import WatcherError, blameless
from leakgauge.audit.records import JobResult, writable
from leakgauge.audit.training import TrainingRun, run_training, trainings
from leakgauge.core import Progress, silent

Job = Cell | TrainingRun


def jobs(cases: Sequence[Case]) -> list[Job]:
    """All of them, by index, in the order of records."""
    planned: list[Job] = list(cells(cases))
    return [*planned, *trainings(cases, len(planned))]


def run_job(job: Job, root: int, progress: Progress = silent) -> JobResult:
    """Run one of an audit whose root seed is `root`; `progress` is told the fraction done, in [0, 1].

    What ends it becomes its record. Only what `progress` raises passes, and Ctrl-C.
    """
    run: Any = run_cell if isinstance(job, Cell) else run_training
    try:
        result: JobResult = run(job, root, blameless(progress))
    except WatcherError as error:
        raise error.cause from None
    result.record = writable(result.record)
    return result
