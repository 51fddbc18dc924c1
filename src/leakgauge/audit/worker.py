"""A worker process. It makes the jobs again from the specification, and runs those whose indices it receives."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from leakgauge.audit.failures import Failed, reason_of, try_step
from leakgauge.audit.folder import JobResult
from leakgauge.audit.jobs import Job, jobs, run_job
from leakgauge.audit.resolve import resolve
from leakgauge.audit.specification import Source, parse
from leakgauge.core import Moment

STEP = 0.02
"""Smallest progress of a job, as a fraction, after which a worker sends a message."""
PR_SET_PDEATHSIG = 1
"""Option of prctl on Linux that sets the signal a process receives when its parent ends."""


@dataclass(frozen=True)
class Ready:
    """The message that a worker has made its jobs."""


@dataclass(frozen=True)
class Unable:
    """The message that a worker could not make its jobs, with the reason."""

    reason: str


@dataclass(frozen=True)
class Fraction:
    """The message that a fraction of a job is done, in [0, 1]."""

    index: int
    done: float


Message = Ready | Unable | Fraction | JobResult


@dataclass(frozen=True)
class Worker:
    """The main function of a worker process. It receives indices of jobs, or None to end. It sends Messages.

    Args:
        source: The specification.
        root: Root seed of the audit.
    """

    source: Source
    root: int

    def __call__(self, pipe: Connection) -> None:
        """Run jobs until None arrives."""
        end_with_parent()
        # Ctrl-C reaches the whole process group. The parent alone handles it, and ends its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        torch.set_num_threads(1)
        # A user's factory may raise any exception. The parent reports the reason and ends the run.
        planned = try_step("plan", lambda: jobs(resolve(parse(self.source))))
        if isinstance(planned, Failed):
            pipe.send(Unable(reason_of(planned.cause)))
            return
        pipe.send(Ready())
        while (index := pipe.recv()) is not None:
            pipe.send(self.run(planned[index], pipe))

    def run(self, job: Job, pipe: Connection) -> JobResult:
        """Run a job, send messages about its progress, and return its result."""
        sent = 0.0

        def report(moment: Moment) -> None:
            nonlocal sent
            done = moment.fraction
            if done >= sent + STEP:
                sent = done
                pipe.send(Fraction(job.index, done))

        return run_job(job, self.root, report)


def end_with_parent() -> None:
    """End this process when its parent ends, even if the parent is killed or this process is in a long computation."""
    if sys.platform == "linux":
        # The kernel ends the process even while a library holds Python's global lock.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    # The thread also notices a parent that ended before prctl was called.
    threading.Thread(target=watch, daemon=True).start()
