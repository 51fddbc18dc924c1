"""Execution of cells and trainings, one after the other in this process or in parallel in workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from leakgauge.audit.crew import PATIENCE, Crew, OnProgress, OnResult
from leakgauge.audit.jobs import Job, run_job
from leakgauge.audit.specification import Source
from leakgauge.core import Moment


def serial(
    planned: Sequence[Job], root: int, *, on_progress: OnProgress, on_result: OnResult
) -> None:
    """Run jobs one after the other, in order, in this process."""
    for job in planned:
        on_result(run_job(job, root, partial(_report_fraction, on_progress, job.index)))


def _report_fraction(on_progress: OnProgress, index: int, moment: Moment) -> None:
    """Pass the fraction of a job that is done to `on_progress`."""
    on_progress(index, moment.fraction)


def parallel(
    source: Source,
    planned: Sequence[Job],
    root: int,
    *,
    workers: int,
    on_progress: OnProgress,
    on_result: OnResult,
) -> None:
    """Run jobs in `workers` processes with one thread each.

    A killed worker is replaced, and its job is run once more. Ctrl-C or any exception ends all workers. Results that
    are already finished are kept.
    """
    crew = Crew(source, planned, root, on_progress=on_progress, on_result=on_result)
    patience = 0.0
    try:
        for _ in range(workers):
            crew.start()
        crew.run()
        patience = PATIENCE
    except KeyboardInterrupt:
        crew.collect()
        raise
    finally:
        crew.dismiss(patience)
