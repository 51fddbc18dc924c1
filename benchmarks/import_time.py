"""How long the command takes to answer: help, the version and a mistake, beside `import torch`.

Each program is a new process. A round runs each program once, so that other load on the machine
meets all of them. Times are by the clock, as a user waits. The table holds their medians.

Quick: 3 rounds of all programs instead of 15.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import common

NAME = "import_time"
TORCH = "import torch"
PROGRAMS = {
    TORCH: ["-c", "import torch"],
    "import leakgauge": ["-c", "import leakgauge"],
    "leakgauge --help": ["-m", "leakgauge", "--help"],
    "leakgauge --version": ["-m", "leakgauge", "--version"],
    "leakgauge audlt (a mistake)": ["-m", "leakgauge", "audlt"],
    "leakgauge list metrics": ["-m", "leakgauge", "list", "metrics"],
}
"""Arguments of Python, by the name of the program."""


def seconds(arguments: list[str]) -> float:
    """Return how long Python takes to run with these arguments, from its start to its end."""
    clock = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False, timeout=600)
    return time.perf_counter() - clock


def jobs_of(given: common.Options) -> list[tuple[int]]:
    """Return the numbers of the rounds."""
    return [(number,) for number in range(3 if given.quick else 15)]


def run(job: tuple[int]) -> common.Row:
    """Run every program once."""
    return {"seconds": {name: seconds(arguments) for name, arguments in PROGRAMS.items()}}


def main() -> None:
    """Run the jobs and print the tables."""
    given = replace(common.options(NAME, __doc__ or ""), workers=1)
    common.header(given, "none")
    # The first round fills the caches of the file system. It does not count.
    run((-1,))
    rows = common.measure(run, jobs_of(given), given, name=NAME, data="none")
    times = {name: median(row["seconds"][name] for row in rows) for name in PROGRAMS}
    common.table(
        ["program", "rounds", "median s", "s / s of import torch"],
        [
            [name, len(rows), f"{spent:.3f}", f"{spent / times[TORCH]:.3f}"]
            for name, spent in times.items()
        ],
    )


if __name__ == "__main__":
    main()
