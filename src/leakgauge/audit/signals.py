"""Handling of Ctrl-C and SIGTERM. They stop a run, but never in the middle of a record."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a process to stop."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    Args:
        number: Number of the signal. The exit code, `code`, is 128 plus this number.
    """

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        super().__init__(signal.Signals(number).name)


def code_of(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that `stop` ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return stop.code if isinstance(stop, Stopped) else 128 + signal.SIGINT


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped at the first SIGINT or SIGTERM inside. The second one ends the process at once.

    A signal that the process ignores stays ignored, for example under `nohup` or in the background of a script.
    Only the main thread receives signals. In other threads, this does nothing.
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
    """Delay SIGINT and SIGTERM until the block ends.

    In this way, no record is written without being counted. A second signal is not delayed and ends the process.
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
    """Return the handlers of the signals in STOPPING that this thread receives and does not ignore."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    return {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Block SIGINT and SIGTERM in processes started inside, even during their imports. On Windows, do nothing."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(STOPPING))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
