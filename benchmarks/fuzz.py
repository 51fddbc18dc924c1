"""Hostile inputs: how many specifications, archives, images, updates, weights and records end in a fault.

Each mutant is read like the command reads it, up to the first cell. Success or one line of ours is
right. A traceback is any other exception, a process that died, a warning, or a line that is not
printable. A mutant hangs after 10 seconds of the processor, or 60 by the clock.

Some specifications are valid and large. At the limit they still compute an update of their own
model, for a check or to foretell the cost. They are counted apart, as measuring. Python's audit
events show writes, and so does a comparison of the folder before and after.

Quick: one mutant in a hundred of every kind, 130 in all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import common
import fuzz_mutants as mutants
import numpy as np
import torch
from fuzz_records import mutated_records
from PIL import Image
from torch import nn

import leakgauge as lg
from leakgauge.audit import Source, check_folder, plan_from, read
from leakgauge.models import load_weights
from leakgauge.records import read as read_records
from leakgauge.report import frontiers, recommend, render
from leakgauge.report import parse as report_of

COUNTS = {
    "specification": 3500,
    "archive": 2500,
    "images": 2500,
    "update": 1250,
    "weights": 1250,
    "records": 2000,
}
"""Number of mutants of each kind, 13,000 in all."""
LIMIT = 10.0
"""Seconds of the processor after which a mutant hangs. Other load on the machine does not count."""
WAIT = 60.0
"""Seconds by the clock after which a mutant hangs, for a mutant that waits."""
PATIENCE = 90.0
"""Seconds by the clock after which a process that does not answer is killed. Its mutant hangs."""
MEMORY = 2**32
"""Address space of a process that reads mutants, 4 GiB in bytes."""
BATCH = 250
COMPUTING = {"local_update", "costs", "training_costs"}
"""Functions that compute with the specification's own model and data.

They run once in a check, and once for the cost of each setting.
"""


class Hung(BaseException):
    """Raised by the alarm. A handler of `Exception` cannot catch it."""


@dataclass
class Watch:
    """What a mutant writes or starts while it is read, by Python's audit events."""

    on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            written = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            writing = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & written)
            if writing and str(path) != os.devnull:
                self.seen.append(f"open {path!r}")
        elif event in EVENTS:
            self.seen.append(f"{event} {arguments!r}"[:200])


EVENTS = frozenset(
    {
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
        *("os.chmod", "os.chown", "os.utime", "os.system", "os.exec", "os.fork", "os.posix_spawn"),
        *("os.spawn", "subprocess.Popen", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
        *("socket.connect", "socket.bind", "webbrowser.open", "ctypes.dlopen", "tempfile.mkstemp"),
    }
)


def model() -> nn.Module:
    """Return the network that weights and updates belong to."""
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def lay_out(folder: Path) -> None:
    """Write the files that valid specifications name."""
    for name, arrays in (("data.npz", "images"), ("table.npz", "table")):
        np.savez(folder / name, **mutants.ARRAYS[arrays])
    (folder / "broken.npz").write_bytes(b"PK\3\4broken")
    lg.Update(dict(model().state_dict())).save(folder / "weights.safetensors")
    (folder / "images").mkdir()
    for i in range(4):
        image = Image.new("RGB", (8, 8), (60 * i, 0, 0))
        image.save(folder / "images" / f"{i}.png")
    os.mkfifo(folder / "pipe")


# Readers: each writes a mutant into a folder, and returns the function that reads it.

Reader = Callable[[], object]


def specification(folder: Path, rng: random.Random) -> Reader:
    """Write a mutated specification, and return its reader."""
    content, settings = mutants.mutated_specification(rng)
    (folder / "spec.toml").write_bytes(content)

    def run() -> None:
        text = read("spec.toml")
        check_folder("out")
        plan_from(Source(text, settings))

    return run


def archive(folder: Path, rng: random.Random) -> Reader:
    """Write a mutated archive, and return its reader."""
    (folder / "mutant.npz").write_bytes(mutants.mutated_archive(rng))
    split: Any = rng.choice([None, None, "train"])
    return lambda: lg.data.npz("mutant.npz", split)


def images(folder: Path, rng: random.Random) -> Reader:
    """Write a folder of mutated images, and return its reader."""
    (folder / "mutant").mkdir()
    mutants.write_folder(folder / "mutant", rng)
    size = rng.choice([None, 8, 8])
    background: Any = rng.choice([None, "white"])
    return lambda: lg.data.image_folder("mutant", size, background)


def update(folder: Path, rng: random.Random) -> Reader:
    """Write a mutated update, and return its reader."""
    parameters = dict(model().named_parameters())
    values = {name: torch.ones_like(p) for name, p in parameters.items()}
    (folder / "mutant.safetensors").write_bytes(mutants.mutated_tensors(rng, values))
    return lambda: lg.Update.load("mutant.safetensors").check(parameters)


def weights(folder: Path, rng: random.Random) -> Reader:
    """Write mutated weights, and return their reader."""
    held = model()
    content = mutants.mutated_tensors(rng, dict(held.state_dict()))
    (folder / "mutant.safetensors").write_bytes(content)
    return lambda: load_weights(held, "mutant.safetensors")


def records(folder: Path, rng: random.Random) -> Reader:
    """Write mutated records, and return their reader."""
    (folder / "records.jsonl").write_bytes(mutated_records(rng))

    def run() -> None:
        found = read_records("records.jsonl")
        render(found, folder).encode("utf-8")
        for frontier in frontiers(report_of(found)):
            json.dumps(recommend(frontier).as_json(), allow_nan=False)

    return run


READERS = {f.__name__: f for f in (specification, archive, images, update, weights, records)}


# One mutant


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Change the working folder inside the block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file and folder below, with its size and time of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def run_one(target: str, seed: str, watch: Watch) -> common.Row:
    """Read one mutant, and return how it ended."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fuzz") as name, in_folder(Path(name)):
        folder = Path(name)
        if target == "specification":
            lay_out(folder)
        read_mutant = READERS[target](folder, rng)
        before = tree(folder)
        watch.seen.clear()
        clock = time.process_time()
        outcome, line = timed(read_mutant, watch)
        seconds = time.process_time() - clock
        wrote = [*watch.seen, *(set(tree(folder).items()) ^ set(before.items()))]
    # A C extension cannot be interrupted, so the alarm may come late.
    hung = outcome == "hung" or (seconds > LIMIT and outcome != "measuring")
    return {
        "seed": seed,
        "outcome": "hung" if hung else outcome,
        "line": line,
        "seconds": seconds,
        "wrote": [str(path) for path in wrote],
    }


def timed(read_mutant: Reader, watch: Watch) -> tuple[str, str]:
    """Return the outcome, and the line or the traceback at its end."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    watch.on = True
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read_mutant()
        if told:
            return "traceback", f"a warning: {told[0].message}"
        return "success", ""
    except lg.UserError as error:
        watch.on = False
        line = str(error)
        return ("refused" if line.isprintable() and len(line) < 7000 else "traceback"), line
    except Hung as stop:
        watch.on = False
        inside = {f.name for f in traceback.extract_tb(stop.__traceback__)}
        return ("measuring" if inside & COMPUTING else "hung"), traceback.format_exc()
    # This benchmark counts all other exceptions.
    except BaseException:  # noqa: BLE001
        watch.on = False
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        watch.on = False


def alarm(*_: Any) -> None:
    """Raise `Hung` when the timer rings."""
    raise Hung


def work(target: str, seeds: list[str], answers: Connection) -> None:
    """Read mutants one after the other in a process, and answer after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGPROF, alarm)
    # Output of a mutant is no part of its line.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    watch = Watch()
    # Lazy imports happen here once, so that none of them is taken for a write.
    sound = random.Random("sound")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as name, in_folder(Path(name)):
            lay_out(Path(name))
            with warnings.catch_warnings(), suppress(lg.LeakGaugeError):
                plan_from(Source(mutants.text_of(mutants.specification(sound), sound)))
    sys.addaudithook(watch)
    for seed in seeds:
        answers.send(run_one(target, seed, watch))
    answers.close()


def supervise(job: tuple[str, list[str]]) -> list[common.Row]:
    """Return the rows of a batch. If a process dies or hangs, its mutant gets a row, and a new process continues."""
    target, left = job
    context = multiprocessing.get_context("spawn")
    rows: list[common.Row] = []
    while left:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(target, left, theirs))
        process.start()
        theirs.close()
        # The first answer waits for imports.
        patience = 3 * PATIENCE
        try:
            while left and mine.poll(patience):
                rows.append(mine.recv())
                left, patience = left[1:], PATIENCE
        except EOFError:
            process.join()
            rows.append(
                lost(left[0], "traceback", f"the process ended with exit code {process.exitcode}")
            )
            left = left[1:]
        else:
            if left:
                rows.append(lost(left[0], "hung", f"no answer in {PATIENCE:.0f} s"))
                left = left[1:]
                process.kill()
        process.join()
    return rows


def lost(seed: str, outcome: str, line: str) -> common.Row:
    """Return the row of a mutant whose process gave no answer."""
    return {"seed": seed, "outcome": outcome, "line": line, "seconds": PATIENCE, "wrote": []}


def jobs_of(given: common.Options) -> list[tuple[str, list[str]]]:
    """Return all mutants by their seeds, in batches of one kind."""
    share = 0.01 if given.quick else 1.0
    jobs = []
    for target, count in COUNTS.items():
        seeds = [f"{given.seed}/{target}/{i}" for i in range(round(count * share))]
        jobs += [(target, seeds[i : i + BATCH]) for i in range(0, len(seeds), BATCH)]
    return jobs


def main() -> None:
    """Read all mutants and print the faults and the table."""
    given = common.options("fuzz", __doc__ or "")
    common.header(given, "made by the seed")
    jobs = jobs_of(given)
    wanted = os.environ.get("FUZZ_ONLY")
    jobs = [job for job in jobs if wanted in (None, job[0])]
    rows: list[common.Row] = []
    clock = time.perf_counter()
    with ThreadPoolExecutor(given.workers) as pool:
        for done, found in enumerate(pool.map(supervise, jobs), 1):
            rows += found
            spent = time.perf_counter() - clock
            print(f"\r{done}/{len(jobs)}, {spent:.0f} s", end="", file=sys.stderr, flush=True)
            save(given, rows, complete=done == len(jobs) and wanted is None)
    print(file=sys.stderr)
    for row in rows:
        if row["outcome"] in ("traceback", "hung") or row["wrote"]:
            print(f"{row['seed']}: {row['outcome']} {row['wrote']}\n{row['line']}\n")
    common.table(
        [
            "kind",
            "mutants",
            "read",
            "refused",
            "measuring",
            "traceback",
            "hung",
            "wrote",
            "longest (s)",
        ],
        [[r[key] for key in r] for r in summary(rows)],
    )


def summary(rows: list[common.Row]) -> list[common.Row]:
    """Return one row for each kind, then one for all."""
    kinds = {target: [r for r in rows if f"/{target}/" in r["seed"]] for target in COUNTS}
    found = []
    for kind, members in [*kinds.items(), ("all", rows)]:
        ends = Counter(row["outcome"] for row in members)
        found.append(
            {
                "kind": kind,
                "mutants": len(members),
                "success": ends["success"],
                "refused": ends["refused"],
                "measuring": ends["measuring"],
                "traceback": ends["traceback"],
                "hung": ends["hung"],
                "wrote": sum(bool(row["wrote"]) for row in members),
                "seconds": round(max((row["seconds"] for row in members), default=0), 1),
            }
        )
    return found


def save(given: common.Options, rows: list[common.Row], *, complete: bool) -> None:
    """Write the summary, and each mutant that failed. The seed makes all others again."""
    failed = [r for r in rows if r["outcome"] in ("traceback", "hung") or r["wrote"]]
    common.save("fuzz", given, [*summary(rows), *failed], complete=complete, data="by the seed")


if __name__ == "__main__":
    main()
