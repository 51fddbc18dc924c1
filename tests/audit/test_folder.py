"""The folder of a run holds only whole lines, however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.made import cell, header

from leakgauge.records import FILE, Cell, Header, line_of, read

WRITES = """
import sys
from pathlib import Path
from leakgauge.audit.folder import RunFolder
from leakgauge.records import read

first, one = read(sys.argv[1])
folder = RunFolder(sys.argv[2])
folder.append(first)
while True:
    folder.append(one, {"images/000/a.png": b"x" * 1000})
"""
LIMIT = 100.0
"""Time limit in seconds to import and write, long enough for a busy machine."""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    written = tmp_path / "run" / FILE
    (tmp_path / "two.jsonl").write_bytes(line_of(header()) + line_of(cell(message="x" * 100_000)))
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "two.jsonl"), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        limit = time.monotonic() + LIMIT
        while not (written.is_file() and written.stat().st_size > 10**6):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first, *others = read(written)
    assert isinstance(first, Header)
    assert len(others) >= 9
    assert all(isinstance(other, Cell) and len(other.message) == 100_000 for other in others)
