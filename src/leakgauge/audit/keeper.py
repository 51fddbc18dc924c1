"""The plan of an audit, the run of this plan, and the keeper that writes the run's records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from leakgauge.audit.case import Cell
from leakgauge.audit.folder import JobResult, RunFolder, in_order
from leakgauge.audit.jobs import Job
from leakgauge.audit.signals import held
from leakgauge.audit.specification import Source
from leakgauge.audit.training import TrainingRun
from leakgauge.core import OutputLost
from leakgauge.core.summaries import Summarized
from leakgauge.records import Cell as CellRecord
from leakgauge.records import End, Record, Training

Watch = Callable[[float, int], None]
"""A function that receives the fraction of the work that is done, in [0, 1], and the number of finished jobs."""


@dataclass(repr=False)
class Run(Summarized):
    """The result of an audit: its records and its folder.

    `leakgauge.audit` returns it. `leakgauge.records` defines the types of the records. Call `model_dump()` of a record
    for a dictionary.

    Args:
        folder: Folder that the run was written to, or None if nothing was written.
        records: All records, in the order in which they were finished.
        interrupted: Whether Ctrl-C or SIGTERM ended the run.
        code: Exit code for the process: 130 after Ctrl-C, 143 after SIGTERM, otherwise 0.
        tracebacks: The traceback of each failure. The key is the path of the log in the failure's record.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks)
        >>> run = lg.audit(case)
        >>> len(run.records), len(run.cells), run.failures
        (3, 1, [])
    """

    folder: Path | None
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    code: int = 0
    tracebacks: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[CellRecord]:
        """The records of cells, in the order of the plan."""
        return [record for record in in_order(self.records) if isinstance(record, CellRecord)]

    @property
    def trainings(self) -> list[Training]:
        """The records of trainings, in the order of the plan."""
        return [record for record in in_order(self.records) if isinstance(record, Training)]

    @property
    def failures(self) -> list[CellRecord | Training]:
        """The records of cells and trainings that failed completely or in part, in the order of the plan."""
        jobs: list[CellRecord | Training] = [*self.cells, *self.trainings]
        return [record for record in jobs if record.failure]


@dataclass(frozen=True)
class Plan:
    """The jobs of an audit: every cell, then every training, with an estimate of their time.

    `plan` and `plan_from` return it. `execute` runs it.

    Args:
        jobs: Every cell, then every training.
        seconds: Estimated seconds of each job on one thread, or None if they could not be measured.
        seed: The root seed.
        source: The specification of the cases. None for cases made in Python.

    Example:
        >>> from leakgauge.audit import Plan
        >>> plan = Plan(jobs=(), seconds=(), seed=0)
        >>> plan.cells, plan.total
        ((), 0)
    """

    jobs: tuple[Job, ...]
    seconds: tuple[float | None, ...]
    seed: int
    source: Source | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells: one for each attack on one update."""
        return tuple(job for job in self.jobs if isinstance(job, Cell))

    @property
    def trainings(self) -> tuple[TrainingRun, ...]:
        """The trainings that measure the cost of defenses."""
        return tuple(job for job in self.jobs if isinstance(job, TrainingRun))

    @property
    def total(self) -> float:
        """Estimated seconds of all jobs with a known time, on one thread. Divide by the number of workers."""
        return sum(seconds for seconds in self.seconds if seconds is not None)

    @property
    def unknown(self) -> int:
        """Number of jobs with a time that could not be measured."""
        return self.seconds.count(None)


class Keeper:
    """Writer of a run's records. It writes each record when it is finished, in any order."""

    def __init__(self, plan: Plan, run: Run, folder: RunFolder | None, watch: Watch | None) -> None:
        self.plan, self.run, self.folder, self.watch = plan, run, folder, watch
        self.finished, self.lost = 0, False
        self.fractions = [0.0] * len(plan.jobs)
        # Each job counts as at least 0.05 s, so that jobs of unknown or tiny cost also move the progress bar.
        self.weights = [max(seconds or 0.0, 0.05) for seconds in plan.seconds]
        self.total, self.reached = sum(self.weights), 0.0

    def report_progress(self, index: int, fraction: float) -> None:
        """Record that a fraction of a job, in [0, 1], is done. Report the progress of the whole run."""
        gained = max(0.0, fraction - self.fractions[index])
        self.fractions[index] += gained
        self.reached += gained * self.weights[index]
        if self.watch is not None:
            self.watch(min(1.0, self.reached / self.total), self.finished)

    def keep_result(self, result: JobResult) -> None:
        """Write a result, and keep its traceback if it has one."""
        with held():
            self.write(result.record, result.files)
            self.finished += 1
            if result.record.failure:
                name = result.record.failure.log
                self.run.tracebacks[name] = result.files[name].decode()
        self.report_progress(result.index, 1.0)

    def write(self, record: Record, files: dict[str, bytes] | None = None) -> None:
        """Write a record and its files to the folder, if there is one, and keep the record."""
        if self.folder is not None:
            try:
                self.folder.append(record, files)
            except OutputLost:
                self.lost = True
                raise
        self.run.records.append(record)

    def close(self, *, seconds: float) -> None:
        """Write the last record. If an earlier record could not be written, write nothing."""
        if self.lost:
            return
        kept, trained = len(self.run.cells), len(self.run.trainings)
        with held():
            self.write(
                End(
                    completed=kept,
                    planned=len(self.plan.cells),
                    trainings_completed=trained,
                    trainings_planned=len(self.plan.trainings),
                    failed=len(self.run.failures),
                    interrupted=kept + trained < len(self.plan.jobs),
                    seconds=seconds,
                )
            )
