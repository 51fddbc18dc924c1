"""The rows that a benchmark writes, without an attack."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# At the end: `zoo` is also the name of a package of the tests.
sys.path.append(str(ROOT / "benchmarks"))

from common import Options, measure  # type: ignore[import-not-found]  # noqa: E402
from tables.documents import Document  # type: ignore[import-not-found]  # noqa: E402
from tables.page import state_of  # type: ignore[import-not-found]  # noqa: E402


def test_results_say_how_many_rows_were_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cut tells how many rows the whole run has, and its page takes the number from there."""

    # The number of threads is a setting of the whole process, which other tests share.
    monkeypatch.setattr("common._one_thread", lambda: None)

    def task(job: int) -> dict[str, Any]:
        if job == 2:
            raise KeyboardInterrupt
        return {"square": job**2}

    given = Options(quick=False, data=None, seed=0, out=tmp_path / "made_up.json", workers=1)
    rows = measure(task, [0, 1, 2, 3], given, name="made_up", data="none")
    assert [row["square"] for row in rows] == [0, 1]
    head = json.loads(given.out.read_text("utf-8"))
    assert (head["planned"], head["complete"]) == (4, False)
    assert state_of(Document("made_up", head, head.pop("rows"))) == "cut after 2 of 4 rows"
