"""The reader of records accepts every line that an audit writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.audits import case

import leakgauge as lg
from leakgauge.attacks import LinearLayer
from leakgauge.audit.outcome import MOST_TEXT
from leakgauge.records import Cell, line_of, read, reading
from leakgauge.records.values import LONGEST_TEXT, printable

LESS = 150
"""Number of bytes by which a line is made too long.

The times in a record may have a few more digits in one run than in another, so a few bytes would not be enough.
"""


def table(columns: int) -> lg.Dataset:
    domain = lg.TableDomain(tuple(lg.Column(str(i), 0, 1) for i in range(columns)))
    inputs = torch.rand((8, columns), generator=torch.Generator().manual_seed(0))
    return lg.Dataset("table", inputs, torch.arange(8) % 4, domain, 4)


def run_of(tmp_path: Path, data: lg.Dataset) -> lg.Run:
    """Audit a data set, check that its records and report can be read, and return the run."""
    size = data.inputs[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, 4))
    run = lg.audit(case(data=data, model=model, batch_sizes=[4]), out=tmp_path / "run")
    lines = (tmp_path / "run" / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) <= reading.LONGEST_LINE
    assert read(tmp_path / "run" / "records.jsonl") == run.records
    lg.write_report(tmp_path / "run")
    return run


def test_rows_are_left_out_of_a_line_that_they_make_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = run_of(tmp_path / "whole", table(40)).cells
    assert whole.rows is not None
    monkeypatch.setattr(reading, "LONGEST_LINE", len(line_of(whole)) - LESS)
    (cell,) = run_of(tmp_path, table(40)).cells
    told = f"fields left out, as a line of the records has at most {reading.LONGEST_LINE:,} bytes: rows"
    assert (cell.rows, cell.notes) == (None, (*whole.notes, told))
    assert (cell.scores, cell.verdict) == (whole.scores, whole.verdict)


def test_pictures_that_no_record_names_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = case().data
    (whole,) = run_of(tmp_path / "whole", data).cells
    assert whole.images is not None
    monkeypatch.setattr(reading, "LONGEST_LINE", len(line_of(whole)) - LESS)
    (cell,) = run_of(tmp_path, data).cells
    assert cell.images is None
    assert cell.notes[-1].endswith("bytes: images")
    assert not (tmp_path / "run" / "images").exists()


def test_what_cannot_be_shortened_is_a_failed_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 3000)
    run = run_of(tmp_path, table(40))
    (cell,) = run.cells
    assert cell.failure is not None
    assert cell.failure.reason.startswith("its record is longer than 3,000 bytes")
    assert "lower the batch size" in cell.failure.reason


def test_texts_of_any_length_are_cut(tmp_path: Path) -> None:
    class Talking(LinearLayer):
        def __repr__(self) -> str:
            return "r" * (LONGEST_TEXT + 1)

        def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
            plan = super().prepare(observation)
            assert isinstance(plan, lg.Plan)
            search = plan.search
            return replace(
                plan,
                search=lambda seeds, progress: replace(
                    search(seeds, progress), message="m" * 20_000, notes=("n" * 20_000,)
                ),
            )

    run = lg.audit(case(attacks=[Talking()]), out=tmp_path / "run")
    (cell,) = [
        record for record in read(tmp_path / "run" / "records.jsonl") if isinstance(record, Cell)
    ]
    assert run.cells == [cell]
    assert cell.message == "m" * (MOST_TEXT - 4) + " ..."
    assert {len(note) for note in cell.notes} == {MOST_TEXT}
    assert len(cell.attack.repr) == LONGEST_TEXT
    assert printable(cell.attack.repr) == cell.attack.repr
