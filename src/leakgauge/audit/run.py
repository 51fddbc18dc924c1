"""A whole audit: plan, cost, execution, records."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from leakgauge.audit import description, training
from leakgauge.audit.case import Case
from leakgauge.audit.costs import costs, training_costs
from leakgauge.audit.execution import parallel, serial
from leakgauge.audit.folder import RunFolder, check_folder
from leakgauge.audit.grid import MOST_CELLS, check_total
from leakgauge.audit.jobs import jobs
from leakgauge.audit.keeper import Keeper, Plan, Run, Watch
from leakgauge.audit.machine import machine
from leakgauge.audit.resolve import resolve
from leakgauge.audit.shape import check_shape
from leakgauge.audit.signals import code_of
from leakgauge.audit.specification import Source, parse
from leakgauge.core.ranges import Seed, check_argument
from leakgauge.modalities import rules_of
from leakgauge.records import Header, Rule, Versions


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
    check_argument("cases", Sequence[Case], cases)
    check_argument("seed", Seed, seed)
    check_argument("max_cells", int | None, max_cells)
    for case in cases:
        check_shape(case)
    check_total(cases, max_cells)
    for case in cases:
        case.check()
    planned = Plan(tuple(jobs(cases)), (), seed, source)
    check_records(planned)
    with one_thread():
        foretold = training_costs(planned.trainings, seed)
        return replace(planned, seconds=(*costs(planned.cells, seed), *foretold))


def check_records(plan: Plan) -> None:
    """Raise a UserError for a part of a cell or a training that no record could describe."""
    for cell in plan.cells:
        if cell.repeat == 0:
            description.check_described(cell, plan.seed)
    for run in plan.trainings:
        if run.repeat == 0:
            training.check_described(run, plan.seed)


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
    keeper = Keeper(plan, run, folder, watch)
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


def header(plan: Plan, command: str, workers: int) -> Header:
    """Return the first record: what repeats this run, to the bit on the same machine and library builds."""
    source, rules = plan.source, rules_of(cell.case.data.domain for cell in plan.cells)
    return Header(
        specification=source.text if source else None,
        settings=source.settings if source else (),
        seed=plan.seed,
        command=command,
        versions=Versions(
            leakgauge=version("leakgauge"),
            torch=str(torch.__version__),
            numpy=version("numpy"),
            python=platform.python_version(),
        ),
        machine=machine(workers),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        planned=len(plan.cells),
        trainings_planned=len(plan.trainings),
        rules=tuple(Rule(name=rule.name, text=rule.text) for rule in rules),
    )


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
    check_argument("watch", Watch | None, watch)
    if out is not None:
        check_folder(out)
    listed: Any = [cases] if isinstance(cases, Case) else cases
    return execute(plan(listed, seed=seed, max_cells=max_cells), out=out, watch=watch)
