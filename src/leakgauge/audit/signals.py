"""Ctrl-C and SIGTERM: how a run is asked to stop, and what they must not cut in two."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop. `code`: its exit code, 128 and the number of the signal."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        super().__init__(signal.Signals(number).name)


def code_of(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that `stop` ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return stop.code if isinstance(stop, Stopped) else 128 + signal.SIGINT


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped at the first SIGINT or SIGTERM inside. The second one ends the process at once.

    A signal that the process ignores, as under `nohup` or in the background of a script, stays ignored. Outside the
    main thread, which alone receives signals, this does nothing.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in heard:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    heard = _heard()
    try:
        for each in heard:
            signal.signal(each, stop)
        yield
    finally:
        for each, handler in heard.items():
            signal.signal(each, handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends: a record is written and counted, or neither.

    The second signal is not held.
    """
    caught: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)

    heard = _heard()
    try:
        for each in heard:
            signal.signal(each, hold)
        yield
    finally:
        for each, handler in heard.items():
            signal.signal(each, handler)
        if caught:
            signal.raise_signal(caught[0])


def _heard() -> dict[signal.Signals, signal._HANDLER]:
    """Return the handlers of the signals that this thread can hear and does not ignore."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    return {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Block SIGINT and SIGTERM in processes that are started inside, even while they import. POSIX only."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(STOPPING))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
