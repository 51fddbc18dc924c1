"""A plan, the run that it becomes, and who keeps the run's records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leakgauge.audit.case import Cell
from leakgauge.audit.jobs import Job
from leakgauge.audit.records import JobResult, RunFolder
from leakgauge.audit.signals import held
from leakgauge.audit.specification import Source
from leakgauge.audit.training import TrainingRun
from leakgauge.core import OutputLost
from leakgauge.core.summaries import Summarized

Watch = Callable[[float, int], None]
"""Told the share of the planned work done, in [0, 1], and the number of cells and trainings finished."""


@dataclass(repr=False)
class Run(Summarized):
    """What an audit leaves: its folder (None if it wrote none) and its records, as they were finished.

    `code`: the exit code of a process that was interrupted so, 130 after Ctrl-C and 143 after SIGTERM; else 0.
    `tracebacks`: the traceback of each failure, by the name that its record gives the log.
    """

    folder: Path | None
    records: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    code: int = 0
    tracebacks: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The records of cells alone, in the order of the plan."""
        return self._of("cell")

    @property
    def trainings(self) -> list[dict[str, Any]]:
        """The records of utility alone, in the order of the plan."""
        return self._of("utility")

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The records of cells and trainings in which something failed, in the order of the plan."""
        return [record for record in (*self.cells, *self.trainings) if record["failure"]]

    def _of(self, kind: str) -> list[dict[str, Any]]:
        found = [record for record in self.records if record["type"] == kind]
        return sorted(found, key=lambda record: int(record["index"]))


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

    def told(self, index: int, share: float) -> None:
        gained = max(0.0, share - self.shares[index])
        self.shares[index] += gained
        self.reached += gained * self.weights[index]
        if self.watch is not None:
            self.watch(min(1.0, self.reached / self.total), self.finished)

    def done(self, result: JobResult) -> None:
        with held():
            self.write(result.record, result.files)
            self.finished += 1
            if result.record["failure"]:
                name = result.record["failure"]["log"]
                self.run.tracebacks[name] = result.files[name].decode()
        self.told(result.index, 1.0)

    def write(self, record: dict[str, Any], files: dict[str, bytes] | None = None) -> None:
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
        trainings = {"completed": trained, "planned": len(self.plan.trainings)}
        with held():
            self.write(
                {
                    "type": "end",
                    "completed": kept,
                    "planned": len(self.plan.cells),
                    **({"trainings": trainings} if self.plan.trainings else {}),
                    "failed": len(self.run.failures),
                    "interrupted": kept + trained < len(self.plan.jobs),
                    "seconds": seconds,
                }
            )
