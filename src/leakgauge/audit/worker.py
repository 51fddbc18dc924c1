"""A worker process: it makes the plan anew from its source, and runs the jobs that it is told by index."""

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

from leakgauge.audit.failures import Failed, reason_of, tried
from leakgauge.audit.folder import JobResult
from leakgauge.audit.jobs import Job, jobs, run_job
from leakgauge.audit.resolve import resolve
from leakgauge.audit.specification import Source, parse
from leakgauge.core import Moment

STEP = 0.02
"""Least progress of a job that is worth a message."""
PR_SET_PDEATHSIG = 1
"""Of Linux' prctl: the signal that a process gets when its parent ends."""


@dataclass(frozen=True)
class Ready:
    """A worker has made its plan."""


@dataclass(frozen=True)
class Unable:
    """A worker cannot make the plan that its parent made, and why."""

    reason: str


@dataclass(frozen=True)
class Fraction:
    """How much of a job is done, in [0, 1]."""

    index: int
    done: float


Message = Ready | Unable | Fraction | JobResult


@dataclass(frozen=True)
class Worker:
    """What a worker process does. It sends a Message at a time, and is sent an index, or None to end."""

    source: Source
    root: int

    def __call__(self, pipe: Connection) -> None:
        end_with_parent()
        # Ctrl-C reaches the whole process group. The parent decides what to do about it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        torch.set_num_threads(1)
        # A user's factory can end in any way that Python knows. The parent tells the reason, and ends the run.
        planned = tried("plan", lambda: jobs(resolve(parse(self.source))))
        if isinstance(planned, Failed):
            pipe.send(Unable(reason_of(planned.cause)))
            return
        pipe.send(Ready())
        while (index := pipe.recv()) is not None:
            pipe.send(self.run(planned[index], pipe))

    def run(self, job: Job, pipe: Connection) -> JobResult:
        """Return the result of a job, after messages of its progress."""
        sent = 0.0

        def told(moment: Moment) -> None:
            nonlocal sent
            done = moment.fraction
            if done >= sent + STEP:
                sent = done
                pipe.send(Fraction(job.index, done))

        return run_job(job, self.root, told)


def end_with_parent() -> None:
    """End this process when its parent ends, however that ends, and whatever this process computes then."""
    if sys.platform == "linux":
        # The kernel does it, even while a library holds Python's lock.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    # It also sees a parent that ended before the line above.
    threading.Thread(target=watch, daemon=True).start()
