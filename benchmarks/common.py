"""The parts that all benchmarks share: a command line, jobs in processes, a JSON file of rows, and tables."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import leakgauge as lg

ROOT = Path(__file__).resolve().parent
CIFAR = "cifar10_lossless.npz"
PHOTOS = "photos (scikit-image, scikit-learn)"
CACHE = Path(tempfile.gettempdir()) / "leakgauge-benchmarks"
"""Where scripts keep the networks that they train."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The options of the command line, the same for every benchmark."""

    quick: bool
    data: str | None
    seed: int
    out: Path
    workers: int
    resume: bool = False
    cache: Path = CACHE


def options(name: str, description: str) -> Options:
    """Parse `[--quick] [--data FILE.npz] [--seed N] [--out FILE.json] [--workers N] [--resume] [--cache FOLDER]`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="run a part that contains the headline's method"
    )
    parser.add_argument("--data", metavar="FILE.npz", help="other images (uint8 NHWC) and labels")
    parser.add_argument("--seed", type=int, default=0, help="number that is added to every seed")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: results/NAME.json")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows of an earlier run that was cut"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="number of processes, by default one for each core",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="FOLDER",
        help="where the networks that a script trains are kept",
    )
    given = parser.parse_args()
    default = ROOT / "results" / (f"{name}-quick.json" if given.quick else f"{name}.json")
    return Options(
        given.quick,
        given.data,
        given.seed,
        given.out or default,
        given.workers,
        given.resume,
        given.cache,
    )


def measure(
    task: Callable[[Any], Row],
    jobs: Sequence[Any],
    given: Options,
    *,
    name: str,
    data: str | None = None,
) -> list[Row]:
    """Run jobs in processes of one thread each, and write the JSON after each row, in the order of the jobs.

    Ctrl-C ends the run. The rows that are done are returned, and the JSON says that it is not
    complete.

    Args:
        task: Measures one job.
        jobs: The jobs. Their `repr` identifies them in the JSON. A job that is listed twice runs once.
        given: The command line.
        name: Name of the benchmark.
        data: What the jobs read, if they do not read `images`.
    """
    jobs = list({repr(job): job for job in jobs}.values())
    commit()  # Read at the start, since the working tree may change during the run.
    kept = earlier(given) if given.resume else {}
    rows: dict[str, Row] = {repr(job): kept[repr(job)] for job in jobs if repr(job) in kept}
    left = [job for job in jobs if repr(job) not in rows]
    before, clock = len(rows), time.perf_counter()
    try:
        for job, row in zip(left, _results(task, left, given.workers), strict=False):
            rows[repr(job)] = {"job": repr(job), "commit": commit(), **row}
            done = [rows[repr(job)] for job in jobs if repr(job) in rows]
            complete = len(done) == len(jobs)
            save(name, given, done, complete=complete, data=data, planned=len(jobs))
            _tell(len(done) - before, len(left), time.perf_counter() - clock)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {len(rows)} of {len(jobs)} rows are written to {given.out}.")
    print(file=sys.stderr)
    return [rows[repr(job)] for job in jobs if repr(job) in rows]


def run_jobs(
    name: str,
    description: str | None,
    jobs_of: Callable[[Options], Sequence[Any]],
    run: Callable[..., Row],
    *,
    data: str | None = None,
) -> list[Row]:
    """Parse the command line, print the header, run every job, and return the rows in order.

    Args:
        name: Name of the benchmark and of its JSON.
        description: Docstring of the script, for `--help`.
        jobs_of: Returns the jobs of a command line.
        run: Measures one job. It takes the job and the command line as `given`.
        data: What the jobs read, if they do not read `images`.
    """
    given = options(name, description or "")
    header(given, data)
    return measure(partial(run, given=given), jobs_of(given), given, name=name, data=data)


def earlier(given: Options) -> dict[str, Row]:
    """Return the rows that an earlier run of the same command left in its JSON, by job."""
    if not given.out.exists():
        return {}
    document = json.loads(given.out.read_text())
    same = document["seed"] == given.seed and document["quick"] == given.quick
    return {row["job"]: row for row in document["rows"] if "job" in row} if same else {}


def _tell(done: int, planned: int, spent: float) -> None:
    """Print how many jobs are done, and about how many seconds are left."""
    left = spent / done * (planned - done)
    line = f"\r{done}/{planned}, {spent:.0f} s, about {left:.0f} s left  "
    print(line, end="", file=sys.stderr, flush=True)


def _results(task: Callable[[Any], Row], jobs: Sequence[Any], workers: int) -> Iterable[Row]:
    """Yield the row of each job, in the order of the jobs."""
    if workers <= 1:
        _one_thread()
        yield from map(task, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(jobs)), initializer=_one_thread) as pool:
        yield from pool.imap(task, jobs)


def _one_thread() -> None:
    """Restrict torch to one thread."""
    torch.set_num_threads(1)


def save(
    name: str,
    given: Options,
    rows: Sequence[Row],
    *,
    complete: bool,
    data: str | None = None,
    planned: int | None = None,
) -> None:
    """Write the JSON: rows, commit, versions, machine, seed, and whether all jobs are done.

    Args:
        name: Name of the benchmark.
        given: The command line.
        rows: The rows that are done.
        complete: Whether all jobs are done.
        data: What the jobs read, if they do not read `images`.
        planned: Number of rows of the whole run, or None if it is not known.
    """
    given.out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "complete": complete,
        **({} if planned is None else {"planned": planned}),
        "quick": given.quick,
        "seed": given.seed,
        "data": data_name(given, data),
        "commit": commit(),
        "versions": {
            "leakgauge": lg.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)),
            "workers": given.workers,
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": list(rows),
    }
    partial = given.out.with_suffix(".part")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(given.out)


def data_name(given: Options, default: str | None = None) -> str:
    """Return the name of the file of `--data`, else `default`, else the name of what `images` reads."""
    if given.data is not None:
        return Path(given.data).name
    if default is not None:
        return default
    return CIFAR if os.environ.get("LEAKGAUGE_DATA") else PHOTOS


@cache
def commit() -> str:
    """Return the commit that runs, with a mark if the sources differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--", "../src", ".", ":!results") else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    for row in [list(headings), ["-" * width for width in widths], *texts]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))


def share(flags: Iterable[bool]) -> str:
    """Return how many flags are true, as `27/30 (90%)`."""
    listed = list(flags)
    return f"{sum(listed)}/{len(listed)} ({100 * sum(listed) / max(1, len(listed)):.0f}%)"


def header(given: Options, data: str | None = None) -> None:
    """Print the commit, versions, data and seed, above the tables."""
    print(
        f"commit {commit()}, leakgauge {lg.__version__}, torch {torch.__version__}, "
        f"data {data_name(given, data)}, seed {given.seed}"
    )
