"""From any file of records, a page is drawn, or the file is refused with one printable line.

`benchmarks/fuzz.py` tests the same with thousands of files, in separate processes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from leakgauge import report
from leakgauge.core.errors import DataError
from leakgauge.records import Record, read, record_of

MAKER = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_records.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """Return the benchmark's module that makes records."""
    spec = spec_from_file_location("fuzz_records", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extreme_records_are_valid_and_drawn(maker: ModuleType, tmp_path: Path) -> None:
    for seed in range(30):
        records = [record_of(record) for record in maker.records(random.Random(seed))]
        drawn(records, tmp_path)


def test_damaged_records_are_drawn_or_refused(maker: ModuleType, tmp_path: Path) -> None:
    told: list[str] = []
    for seed in range(30):
        path = tmp_path / "records.jsonl"
        path.write_bytes(maker.mutated_records(random.Random(seed)))
        with refusals(told):
            drawn(read(path), tmp_path)
    assert 5 < len(told) < 25
    assert all(line.isprintable() and len(line) < 4000 for line in told)


@contextmanager
def refusals(told: list[str]) -> Iterator[None]:
    """Append the message of a refused file to `told`."""
    try:
        yield
    except DataError as error:
        told.append(str(error))


def drawn(records: Sequence[Record], folder: Path) -> None:
    """Draw the page of these records and check that it is clean."""
    page = report.render(records, folder)
    page.encode("utf-8")
    assert "\x1b" not in page
    assert "<script>alert" not in page
    for frontier in report.frontiers(report.parse(records)):
        json.dumps(report.recommend(frontier).as_json(), allow_nan=False)
