"""How many rows a whole run of a benchmark has, for results that do not say so themselves."""

from __future__ import annotations

import importlib
import os
from functools import cache
from pathlib import Path
from unittest import mock


@cache
def planned(benchmark: str) -> int:
    """Return how many rows a complete run has.

    The jobs of a run depend on whether the data folder is named, not on its files.
    """
    from common import Options

    script = importlib.import_module(benchmark)
    if benchmark == "time_to_quality_relu":
        # Five images of ResNet-20 and three of ConvNet, by three methods.
        return (5 + 3) * 3
    with mock.patch.dict(os.environ, {"LEAKGAUGE_DATA": "/"}):
        given = Options(quick=False, data=None, seed=0, out=Path(), workers=1)
        return len({repr(job) for job in script.jobs_of(given)})
