"""A whole audit: check and plan the cases, run the plan, and keep the records."""

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
from leakgauge.audit.inspected import inspected
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
    """Return the plan of an audit: its cells and trainings, with an estimate of their time.

    The cases are checked first. The estimate needs one observation for each case, batch size and defense. It also needs
    one client's round for each training.

    Args:
        cases: The cases to audit, at least one.
        seed: The root seed, at least 0.
        source: The specification that the cases were made from. Worker processes make the cases from it
            again. None for cases made in Python.
        max_cells: Largest number of cells and trainings. None allows any number.

    Raises:
        UserError: A case has a mistake, or there are more than `max_cells` cells and trainings.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks)
        >>> from leakgauge.audit import plan
        >>> len(plan([case]).cells)
        1
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
        of_trainings = training_costs(planned.trainings, seed)
        return replace(planned, seconds=(*costs(planned.cells, seed), *of_trainings))


def check_records(plan: Plan) -> None:
    """Raise a UserError if no record can describe some part of a cell or a training."""
    for cell in plan.cells:
        if cell.repeat == 0:
            description.check_described(cell, plan.seed)
    for run in plan.trainings:
        if run.repeat == 0:
            training.check_described(run, plan.seed)


def plan_from(source: Source, *, max_cells: int | None = MOST_CELLS) -> Plan:
    """Return the plan of an audit that a specification describes.

    Args:
        source: The specification.
        max_cells: Largest number of cells and trainings. None allows any number.

    Raises:
        UserError: The specification has a mistake, or there are more than `max_cells` cells and trainings.

    Example:
        >>> from leakgauge.audit import Source, plan_from
        >>> text = '''
        ... data = "digits"
        ... model = {name = "mlp", width = 32, depth = 2}
        ... attacks = ["linear_layer"]
        ... '''
        >>> len(plan_from(Source(text)).cells)
        1
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
    """Run a plan and return its records.

    Each record is written when its cell or training has finished. Its `index` is its place in the plan. After Ctrl-C,
    finished records are kept and the run is marked as interrupted.

    Args:
        plan: The plan.
        out: Folder of the records, pictures and tracebacks. It must not hold a run yet. None writes nothing.
        workers: Number of processes, each with one thread. A plan made from Python objects always runs in
            this process.
        watch: Function that receives the fraction of the work done, in [0, 1], and the number of finished
            cells and trainings.
        command: The command in the header of the records.

    Raises:
        OutputError: `out` cannot be used.
        OutputLost: A record could not be written. All records before it are complete.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.audit import execute, plan
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks)
        >>> run = execute(plan([case]))
        >>> len(run.cells), run.interrupted
        (1, False)
    """
    folder = RunFolder(out) if out is not None else None
    run = Run(folder.path if folder else None)
    keeper = Keeper(plan, run, folder, watch)
    clock = time.perf_counter()
    # Worker processes make the cases again from the specification. Cases made in Python cannot move to them.
    processes = workers if plan.source is not None else 1
    keeper.write(header(plan, command, processes))
    try:
        if processes > 1 and plan.source is not None:
            parallel(
                plan.source,
                plan.jobs,
                plan.seed,
                workers=processes,
                on_progress=keeper.report_progress,
                on_result=keeper.keep_result,
            )
        else:
            with one_thread():
                serial(
                    plan.jobs,
                    plan.seed,
                    on_progress=keeper.report_progress,
                    on_result=keeper.keep_result,
                )
    except KeyboardInterrupt as stop:
        run.interrupted, run.code = True, code_of(stop)
    finally:
        keeper.close(seconds=time.perf_counter() - clock)
    return run


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block. Results then do not depend on the number of workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def header(plan: Plan, command: str, workers: int) -> Header:
    """Return the first record of a run.

    With this record, the run can be repeated bit for bit on the same machine and library builds.
    """
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
        inspected=tuple(map(inspected, {id(c.case): c.case for c in plan.cells}.values())),
    )


def audit(
    cases: Sequence[Case] | Case,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    watch: Watch | None = None,
    max_cells: int | None = MOST_CELLS,
) -> Run:
    """Audit cases made in Python: run every attack, score it against a blind control, and judge it.

    Everything runs in this process. If a cell or training fails, its record gives the reason, and the others still run.
    See `Run.failures`.

    Args:
        cases: One case, or several.
        seed: The root seed, at least 0.
        out: Folder of the records, pictures and tracebacks. It must not hold a run yet. None writes nothing.
        watch: Function that receives the fraction of the work done, in [0, 1], and the number of finished
            cells and trainings.
        max_cells: Largest number of cells and trainings. None allows any number.

    Returns:
        The run with its records.

    Raises:
        UserError: A case has a mistake. It is found before any attack runs.
        OutputLost: A record could not be written. All records before it are complete.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = lg.audit(case, out=Path(folder, "out"))
        ...     print(Path(folder, "out", "records.jsonl").exists())
        True
        >>> run.cells[0].status, run.cells[0].verdict.leaks
        ('certified', True)
    """
    check_argument("watch", Watch | None, watch)
    if out is not None:
        check_folder(out)
    listed: Any = [cases] if isinstance(cases, Case) else cases
    return execute(plan(listed, seed=seed, max_cells=max_cells), out=out, watch=watch)
