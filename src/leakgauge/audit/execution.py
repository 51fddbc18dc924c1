"""Execution of cells and trainings, one after the other in this process or in parallel in workers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from leakgauge.audit.crew import PATIENCE, Crew, Done, Told
from leakgauge.audit.jobs import Job, run_job
from leakgauge.audit.specification import Source
from leakgauge.core import Moment


def serial(planned: Sequence[Job], root: int, *, told: Told, done: Done) -> None:
    """Run jobs one after the other, in order, in this process."""
    for job in planned:
        done(run_job(job, root, partial(_told, told, job.index)))


def _told(told: Told, index: int, moment: Moment) -> None:
    told(index, moment.fraction)


def parallel(
    source: Source, planned: Sequence[Job], root: int, *, workers: int, told: Told, done: Done
) -> None:
    """Run jobs in `workers` processes with one thread each.

    A killed worker is replaced, and its job is tried once more. Any exception ends the processes, and so does Ctrl-C.
    Finished results are kept.
    """
    crew = Crew(source, planned, root, told=told, done=done)
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
