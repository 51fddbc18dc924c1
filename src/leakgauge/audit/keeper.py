"""A plan, the run that it becomes, and who keeps the run's records."""

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
"""Told the share of the planned work done, in [0, 1], and the number of cells and trainings finished."""


@dataclass(repr=False)
class Run(Summarized):
    """What an audit leaves: its folder (None if it wrote none) and its records, as they were finished.

    A record is typed (`leakgauge.records`); its `model_dump()` is a dictionary.

    `code`: the exit code of a process that was interrupted so, 130 after Ctrl-C and 143 after SIGTERM; else 0.
    `tracebacks`: the traceback of each failure, by the name that its record gives the log.
    """

    folder: Path | None
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    code: int = 0
    tracebacks: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[CellRecord]:
        """The records of cells alone, in the order of the plan."""
        return [record for record in in_order(self.records) if isinstance(record, CellRecord)]

    @property
    def trainings(self) -> list[Training]:
        """The records of trainings alone, in the order of the plan."""
        return [record for record in in_order(self.records) if isinstance(record, Training)]

    @property
    def failures(self) -> list[CellRecord | Training]:
        """The records of cells and trainings in which something failed, in the order of the plan."""
        jobs: list[CellRecord | Training] = [*self.cells, *self.trainings]
        return [record for record in jobs if record.failure]


@dataclass(frozen=True)
class Plan:
    """Every cell of an audit, then every training, and about how many seconds each will take on one thread.

    The seconds of a job are None if they could not be measured.
    """

    jobs: tuple[Job, ...]
    seconds: tuple[float | None, ...]
    seed: int
    source: Source | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Attacks alone."""
        return tuple(job for job in self.jobs if isinstance(job, Cell))

    @property
    def trainings(self) -> tuple[TrainingRun, ...]:
        """Trainings alone."""
        return tuple(job for job in self.jobs if isinstance(job, TrainingRun))

    @property
    def total(self) -> float:
        """Seconds of all whose cost is known, together. Divide by the number of workers."""
        return sum(seconds for seconds in self.seconds if seconds is not None)

    @property
    def unknown(self) -> int:
        """How many jobs have a cost that could not be measured."""
        return self.seconds.count(None)


class Keeper:
    """Writes each record when it is finished, whatever the order of the plan."""

    def __init__(self, plan: Plan, run: Run, folder: RunFolder | None, watch: Watch | None) -> None:
        self.plan, self.run, self.folder, self.watch = plan, run, folder, watch
        self.finished, self.lost = 0, False
        self.shares = [0.0] * len(plan.jobs)
        # One that costs nothing measurable still counts, so that the bar can end.
        self.weights = [max(seconds or 0.0, 0.05) for seconds in plan.seconds]
        self.total, self.reached = sum(self.weights), 0.0

    def told(self, index: int, fraction: float) -> None:
        gained = max(0.0, fraction - self.shares[index])
        self.shares[index] += gained
        self.reached += gained * self.weights[index]
        if self.watch is not None:
            self.watch(min(1.0, self.reached / self.total), self.finished)

    def done(self, result: JobResult) -> None:
        with held():
            self.write(result.record, result.files)
            self.finished += 1
            if result.record.failure:
                name = result.record.failure.log
                self.run.tracebacks[name] = result.files[name].decode()
        self.told(result.index, 1.0)

    def write(self, record: Record, files: dict[str, bytes] | None = None) -> None:
        if self.folder is not None:
            try:
                self.folder.append(record, files)
            except OutputLost:
                self.lost = True
                raise
        self.run.records.append(record)

    def close(self, *, seconds: float) -> None:
        """Write the last line, unless a record was lost already: then there is no room for it."""
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
