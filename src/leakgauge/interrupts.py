"""Handling of Ctrl-C during the imports, which take seconds. It prints one line and ends with exit code 130.

The package runs this module before it imports anything else. The module imports only the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def is_command() -> bool:
    """Return whether this process was started as `leakgauge` or as `python -m leakgauge`."""
    # For `python -m`, Python imports the package before it sets the name of the program.
    if sys.argv[:1] == ["-m"]:
        return ("-m", "leakgauge") in pairwise(sys.orig_argv)
    return bool(sys.argv) and Path(sys.argv[0]).stem == "leakgauge"


def end_quietly() -> None:
    """End the process with one line at Ctrl-C, until the command sets its own handler."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """Print one line and end the process at once."""
    os.write(2, b"leakgauge: interrupted. Nothing was recorded.\n")
    # An exception could interrupt an import, also inside another package, and leave it half done.
    os._exit(INTERRUPTED)
