"""A whole audit: plan, cost, execution, records."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from leakgauge.audit.case import Case, Cell
from leakgauge.audit.costs import costs, training_costs
from leakgauge.audit.execution import parallel, serial
from leakgauge.audit.grid import MOST_CELLS, check_total
from leakgauge.audit.jobs import Job, jobs
from leakgauge.audit.machine import machine
from leakgauge.audit.records import JobResult, RunFolder
from leakgauge.audit.resolve import resolve
from leakgauge.audit.signals import code_of, held
from leakgauge.audit.specification import Source, parse
from leakgauge.audit.training import TrainingRun
from leakgauge.core import OutputLost

Watch = Callable[[float, int], None]
"""Told the share of the planned work done, in [0, 1], and the number of cells and trainings finished."""


@dataclass
class Run:
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


def plan(
    cases: Sequence[Case],
    *,
    seed: int = 0,
    source: Source | None = None,
    max_cells: int | None = MOST_CELLS,
) -> Plan:
    """Check the cases whole, and measure what they will cost.

    One observation of each case, batch size and defense is made, and one client's round of each training.

    Args:
        cases: what to audit.
        seed: the root seed.
        source: what the cases are made from, so that worker processes can make them anew.
        max_cells: how many audits and trainings there may be; None allows any number.

    Raises:
        UserError: a mistake in a case, or a grid that is too large.
    """
    for case in cases:
        case.check_shape()
    check_total(cases, max_cells)
    for case in cases:
        case.check()
    planned = Plan(tuple(jobs(cases)), (), seed, source)
    with one_thread():
        foretold = training_costs(planned.trainings, seed)
        return replace(planned, seconds=(*costs(planned.cells, seed), *foretold))


def plan_from(source: Source, *, max_cells: int | None = MOST_CELLS) -> Plan:
    """Return the plan of a specification.

    Raises:
        UserError: anything that is wrong in it.
    """
    specification = parse(source)
    cases = resolve(specification, max_cells)
    return plan(cases, seed=specification.seed, source=source, max_cells=max_cells)


def execute(
    plan: Plan,
    *,
    out: str | Path | None = None,
    workers: int = 1,
    watch: Watch | None = None,
    command: str = "leakgauge.audit",
) -> Run:
    """Run a plan. Ctrl-C keeps what is finished, and marks the run as interrupted.

    `workers` processes need a plan made from a specification; objects are run in this process. Records are written as
    they are finished. Their `index` is their place in the plan.

    Raises:
        OutputError: `out` cannot be used.
        OutputLost: a record could not be written. Those before it are whole.
    """
    folder = RunFolder(out) if out is not None else None
    run = Run(folder.path if folder else None)
    keeper = _Keeper(plan, run, folder, watch)
    clock = time.perf_counter()
    # Objects cannot be made anew in another process.
    processes = workers if plan.source is not None else 1
    keeper.write(header(plan, command, processes))
    try:
        if processes > 1 and plan.source is not None:
            parallel(
                plan.source,
                plan.jobs,
                plan.seed,
                workers=processes,
                told=keeper.told,
                done=keeper.done,
            )
        else:
            with one_thread():
                serial(plan.jobs, plan.seed, told=keeper.told, done=keeper.done)
    except KeyboardInterrupt as stop:
        run.interrupted, run.code = True, code_of(stop)
    finally:
        keeper.close(seconds=time.perf_counter() - clock)
    return run


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside: results then do not depend on the number of workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Keeper:
    """Writes each record when it is finished, whatever the order of the plan."""

    def __init__(self, plan: Plan, run: Run, folder: RunFolder | None, watch: Watch | None) -> None:
        self.plan, self.run, self.folder, self.watch = plan, run, folder, watch
        self.finished, self.lost = 0, False
        self.shares = [0.0] * len(plan.jobs)
        # One that costs nothing measurable still counts, so that the bar can end.
        self.weights = [max(seconds or 0.0, 0.05) for seconds in plan.seconds]

    def told(self, index: int, share: float) -> None:
        self.shares[index] = max(self.shares[index], share)
        if self.watch is not None:
            done = sum(w * s for w, s in zip(self.weights, self.shares, strict=True))
            self.watch(done / sum(self.weights), self.finished)

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


def header(plan: Plan, command: str, workers: int) -> dict[str, Any]:
    """Return the first record: what repeats this run, to the bit on the same machine and library builds."""
    source = plan.source
    return {
        "type": "run",
        "schema": 1,
        "specification": source.text if source else None,
        "settings": list(source.settings) if source else [],
        "seed": plan.seed,
        "command": command,
        "versions": {
            "leakgauge": version("leakgauge"),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "machine": machine(workers),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": len(plan.cells),
        **({"trainings": {"planned": len(plan.trainings)}} if plan.trainings else {}),
    }


def audit(
    cases: Sequence[Case] | Case,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    watch: Watch | None = None,
    max_cells: int | None = MOST_CELLS,
) -> Run:
    """Audit cases built from objects, in this process.

    A cell or training that fails becomes a record with its reason, see `Run.failures`. The others run.

    Args:
        cases: one case, or several.
        seed: the root seed.
        out: folder of the records, pictures and tracebacks; None writes nothing.
        watch: told the fraction of the work that is done, in [0, 1], and how many cells are finished.
        max_cells: how many audits and trainings there may be; None allows any number.

    Raises:
        UserError: what can be known to fail before any attack runs.
        OutputLost: a record could not be written. Those before it are whole.
    """
    listed = [cases] if isinstance(cases, Case) else list(cases)
    return execute(plan(listed, seed=seed, max_cells=max_cells), out=out, watch=watch)
