"""Execution of cells and trainings: one after another here, or side by side in worker processes."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from leakgauge.audit.jobs import Job, jobs, run_job
from leakgauge.audit.records import JobResult
from leakgauge.audit.resolve import resolve
from leakgauge.audit.specification import Source, parse
from leakgauge.core import LeakGaugeError

Told = Callable[[int, float], None]
"""Index of a cell or training and the share of it done, in [0, 1]."""
STEP = 0.02
"""Least progress of one that is worth a message between processes."""
Done = Callable[[JobResult], None]
"""Takes each result as it comes, in any order."""


def serial(planned: Sequence[Job], root: int, *, told: Told, done: Done) -> None:
    """One after the other, in order, in this process."""
    for job in planned:
        done(run_job(job, root, partial(told, job.index)))


@dataclass(frozen=True)
class Worker:
    """What a worker process does: it makes the same plan from the same source, and runs what it is told by index."""

    source: Source
    root: int
    tasks: Any  # multiprocessing queues have no public type
    answers: Any

    def __call__(self) -> None:
        # Ctrl-C reaches the whole process group; the parent decides what to do about it. On Windows this is all.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        planned = jobs(resolve(parse(self.source)))
        while (index := self.tasks.get()) is not None:
            self.answers.put(self.run(planned[index]))

    def run(self, job: Job) -> JobResult | LeakGaugeError:
        sent = 0.0

        def told(share: float) -> None:
            nonlocal sent
            if share >= sent + STEP:
                sent = share
                self.answers.put((job.index, share))

        try:
            return run_job(job, self.root, told)
        except LeakGaugeError as error:
            return error


def parallel(
    source: Source, planned: Sequence[Job], root: int, *, workers: int, told: Told, done: Done
) -> None:
    """Results from `workers` processes of one thread each. Any exception, Ctrl-C too, ends the processes."""
    context = multiprocessing.get_context("spawn")
    tasks, answers = context.Queue(), context.Queue()
    for job in planned:
        tasks.put(job.index)
    for _ in range(workers):
        tasks.put(None)
    worker = Worker(source, root, tasks, answers)
    processes = [context.Process(target=worker, daemon=True) for _ in range(workers)]
    left = len(planned)
    try:
        with uninterrupted():
            for process in processes:
                process.start()
        while left:
            answer = receive(answers, processes)
            if isinstance(answer, LeakGaugeError):
                raise answer
            if isinstance(answer, JobResult):
                left -= 1
                told(answer.index, 1.0)
                done(answer)
            else:
                told(*answer)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, Ctrl-C waits; processes started here never see it, not even while they import. POSIX only."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def receive(answers: Any, processes: Sequence[BaseProcess]) -> Any:
    """The next answer. Raises LeakGaugeError where a worker died without one."""
    while True:
        try:
            return answers.get(timeout=1.0)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if dead:
                raise LeakGaugeError(
                    f"a worker process ended with exit code {dead[0]} (out of memory?): "
                    "run again with --workers 1"
                ) from None
