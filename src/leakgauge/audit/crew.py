"""The worker processes of a run. Their parent gives them jobs and replaces lost workers."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from leakgauge.audit.folder import JobResult
from leakgauge.audit.jobs import Job, lost_job
from leakgauge.audit.signals import held, unheard_by_children
from leakgauge.audit.specification import Source
from leakgauge.audit.worker import Fraction, Message, Ready, Unable, Worker
from leakgauge.core import LeakGaugeError

OnProgress = Callable[[int, float], None]
"""A function that receives the index of a job and the fraction of this job that is done, in [0, 1]."""
OnResult = Callable[[JobResult], None]
"""A function that receives each result when it is finished, in any order."""
LOOK = 1.0
"""Most seconds between two checks for ended workers. Usually, the pipe of a worker shows its end at once."""
TRIES = 2
"""Number of processes that may end during a job before the job counts as failed."""
PATIENCE = 2.0
"""Seconds that a worker has to end by itself when all jobs are finished."""


@dataclass(eq=False)
class Member:
    """One worker process.

    Args:
        process: The process.
        pipe: The parent's end of the pipe to the process.
        ready: Whether the worker has made its plan.
        job: Index of the job that the worker runs, or None if it is idle.
    """

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: int | None = None


class Crew:
    """A group of worker processes that run jobs. Killed workers are replaced.

    Each worker has its own pipe. A shared queue would stay locked forever if a worker were killed during a write.
    """

    def __init__(
        self,
        source: Source,
        planned: Sequence[Job],
        root: int,
        *,
        on_progress: OnProgress,
        on_result: OnResult,
    ) -> None:
        self.planned, self.root, self.on_progress, self.on_result = (
            planned,
            root,
            on_progress,
            on_result,
        )
        self.worker = Worker(source, root)
        self.context = multiprocessing.get_context("spawn")
        self.waiting = deque(range(len(planned)))
        self.left = len(planned)
        self.members: list[Member] = []
        self.lost: Counter[int] = Counter()

    def start(self) -> None:
        """Start one more worker."""
        # A signal between start and append would leave a process that is not on the list.
        with held():
            mine, theirs = self.context.Pipe()
            process = self.context.Process(target=self.worker, args=(theirs,), daemon=True)
            with unheard_by_children():
                process.start()
            # The pipe closes with the worker only if no other process holds the worker's end.
            theirs.close()
            self.members.append(Member(process, mine))

    def run(self) -> None:
        """Wait until every job has its result."""
        while self.left:
            pipes = [member.pipe for member in self.members]
            wait([*pipes, *(member.process.sentinel for member in self.members)], timeout=LOOK)
            for member in tuple(self.members):
                # If a signal interrupted the read of a message, the rest of the pipe could not be read.
                with held():
                    self.hear(member)
            self.distribute()

    def hear(self, member: Member) -> None:
        """Read every message of a worker, and handle its end if it has ended."""
        ended = member.process.exitcode is not None
        try:
            while member.pipe.poll():
                self.take(member, member.pipe.recv())
        except (EOFError, OSError):
            ended = True
        if ended:
            self.lose(member)

    def take(self, member: Member, message: Message) -> None:
        """Act on one message of a worker."""
        match message:
            case Ready():
                member.ready = True
            case Unable(reason):
                raise LeakGaugeError(
                    f"a worker process could not make the plan again: {reason}; run again with --workers 1"
                )
            case Fraction(index, done):
                self.on_progress(index, done)
            case JobResult():
                member.job = None
                self.finish(message)

    def finish(self, result: JobResult) -> None:
        """Report a finished job and pass its result on."""
        self.left -= 1
        self.on_progress(result.index, 1.0)
        self.on_result(result)

    def distribute(self) -> None:
        """Give each idle worker a job."""
        for member in self.members:
            if member.ready and member.job is None and self.waiting:
                member.job = self.waiting.popleft()
                try:
                    member.pipe.send(member.job)
                except OSError:
                    # The worker ended before it began the job. `hear` will notice.
                    self.waiting.appendleft(member.job)
                    member.job = None

    def lose(self, member: Member) -> None:
        """Remove a worker that ended and start another. Queue its job once more, or record it as failed."""
        self.members.remove(member)
        member.process.join()
        member.pipe.close()
        how = ending(member.process.exitcode)
        if member.job is not None:
            self.lost[member.job] += 1
            if self.lost[member.job] < TRIES:
                self.waiting.appendleft(member.job)
            else:
                self.finish(lost_job(self.planned[member.job], self.root, how))
        if member.ready and self.left > len(self.members):
            self.start()
        if self.left and not self.members:
            raise LeakGaugeError(
                f"every worker process ended before it ran a job, the last one {how}; run again with --workers 1"
            )

    def collect(self) -> None:
        """Read all results that workers have sent."""
        with held():
            for member in tuple(self.members):
                try:
                    while member.pipe.poll():
                        message = member.pipe.recv()
                        if isinstance(message, JobResult):
                            self.finish(message)
                except (EOFError, OSError):
                    continue

    def dismiss(self, patience: float) -> None:
        """End all workers. After `patience` seconds, those that still run are killed."""
        with held():
            limit = time.monotonic() + patience
            for member in self.members:
                if patience:
                    self.say_goodbye(member)
            for member in self.members:
                if patience:
                    member.process.join(max(0.0, limit - time.monotonic()))
                member.process.kill()
                member.process.join()
                member.pipe.close()
            self.members.clear()

    def say_goodbye(self, member: Member) -> None:
        """Tell a worker that there are no more jobs."""
        try:
            member.pipe.send(None)
        except OSError:
            return


def ending(code: int | None) -> str:
    """Return in words how a process with this exit code ended."""
    if code is None or code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    memory = ", for example when the machine runs out of memory" if name == "SIGKILL" else ""
    return f"by signal {-code} ({name}{memory})"
