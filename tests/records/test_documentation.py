"""The documentation of records is up to date, and its examples run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import images, mlp
from support.made import cell, data, defended, end, failed, header, inapplicable, table, training

import leakgauge as lg
from leakgauge.cli import main
from leakgauge.records import Cell, Record, line_of, read
from leakgauge.records.document import fields_text, schema_text, with_fields, write

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "records.md").read_text("utf-8")
ANEW = "run `python -m leakgauge.records.document docs`"
MIXED = [
    header(),
    cell(math.nan, index=0),
    inapplicable(index=1),
    table(index=2),
    defended("fp16", 9.0, index=3),
    defended(8, 12.5, index=4),
    failed(index=5),
    cell(case="sound", data=data(labels=None, label_names=("0.5",)), index=6),
    training(),
    end(),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_and_the_schema_are_up_to_date(tmp_path: Path) -> None:
    assert with_fields(PAGE) == PAGE, ANEW
    assert (DOCS / "record.schema.json").read_text("utf-8") == schema_text(), ANEW
    (tmp_path / "records.md").write_text(PAGE.replace(fields_text(), "old"), "utf-8")
    write(tmp_path)
    assert (tmp_path / "records.md").read_text("utf-8") == PAGE


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def shown(start: str) -> str:
    """Return the one-line block of Python on the page that begins with `start`."""
    (code,) = [block for block in blocks("python") if block.startswith(start)]
    assert code.count("\n") == 1, "each block must be one line"
    return code


def blocks(language: str) -> list[str]:
    """Return the blocks of code in one language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def by_pandas(module: Any) -> list[dict[str, Any]]:
    """Return the cells as the line for pandas on the page reads them."""
    names: dict[str, Any] = {"pandas": module}
    exec(shown("cells = pandas"), names)
    return list(names["cells"].to_dict("records"))


def by_polars(module: Any) -> list[dict[str, Any]]:
    """Return the cells as the line for Polars on the page reads them."""
    names: dict[str, Any] = {"polars": module}
    exec(shown("cells = polars"), names)
    return list(names["cells"].to_dicts())


def by_duckdb(module: Any) -> list[dict[str, Any]]:
    """Return the cells as the line for DuckDB on the page reads them."""
    names: dict[str, Any] = {"duckdb": module}
    exec(shown("cells = duckdb"), names)
    columns = names["cells"].columns
    return [dict(zip(columns, row, strict=True)) for row in names["cells"].fetchall()]


READERS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {
    "pandas": by_pandas,
    "polars": by_polars,
    "duckdb": by_duckdb,
}


def audited(folder: Path) -> list[Record]:
    """Run a small audit with a training, a leak and an attack that cannot run. Return its records."""
    whole = images(12)
    dataset = lg.Dataset("noise", whole.inputs, whole.targets, lg.ImageDomain(1, 8, 8), classes=4)
    case = lg.Case(
        name="noise",
        data=dataset,
        model=mlp(),
        attacks=[lg.attacks.LinearLayer(), lg.attacks.IDLG(steps=1)],
        defenses=[None, lg.defenses.TopK(sparsity=0.5)],
        batch_sizes=[1, 2],
        utility=lg.Utility(clients=2, rounds=1),
    )
    return lg.audit(case, out=folder).records


def mixed(folder: Path) -> list[Record]:
    """Write records of every kind of data, some with missing values. Return them."""
    (folder / "records.jsonl").write_bytes(b"".join(map(line_of, MIXED)))
    return list(MIXED)


@pytest.mark.parametrize("records", [audited, mixed])
@pytest.mark.parametrize("library", READERS)
def test_one_line_reads_the_cells(
    here: Path, library: str, records: Callable[[Path], list[Record]]
) -> None:
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    cells = [record for record in records(here) if isinstance(record, Cell)]
    found = READERS[library](module)
    assert [row["id"] for row in found] == [record.id for record in cells]
    for row, record in zip(found, cells, strict=True):
        assert row["type"] == "cell"
        assert int(row["index"]) == record.index
        assert row["attack"] == record.attack.model_dump()
        assert row["verdict"]["leaks"] == record.verdict.leaks
        strength = row["defense"]["strength"]
        assert strength == record.defense.strength
        assert row["defense"]["strength_text"] == record.defense.strength_text
        scores = {name: values for name, values in row["scores"].items() if values is not None}
        assert {name: list(map(missing, v)) for name, v in scores.items()} == {
            name: list(values) for name, values in record.scores.items()
        }


def missing(value: float | None) -> float | None:
    """Return a number, or None for the value with which readers of tables mark a missing number."""
    return None if value is None or math.isnan(value) else value


def test_the_query_that_the_page_shows(here: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    mixed(here)
    (query,) = blocks("sql")
    found = duckdb.sql(query).fetchall()
    assert found == [("dlg", "columns_read", 0.5), ("dlg", "psnr", 12.5)]


def test_the_query_holds_for_a_run_without_a_psnr(here: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    headline = data("table")["headline"].model_copy(update={"metric": "years off"})
    rated = [
        table(index=i, data=data("table", headline=headline), scores={"years off": (score,)})
        for i, score in enumerate((3.0, 5.0, 9.0))
    ]
    (here / "records.jsonl").write_bytes(b"".join(map(line_of, [header(), *rated, end()])))
    (query,) = blocks("sql")
    assert duckdb.sql(query).fetchall() == [("dlg", "years off", 5.0)]


def test_typed_records_in_python(here: Path) -> None:
    mixed(here)
    (code,) = [block for block in blocks("python") if "from leakgauge" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    records = [record for record in read("records.jsonl") if isinstance(record, Cell)]
    assert names["leaked"] == [record.id for record in records if record.verdict.leaks]
    assert len(names["leaked"]) == 2


def test_imports_that_the_pages_name_work() -> None:
    """`leakgauge.audit` is a function that hides the module of the same name, so names are imported from it."""
    pages = [DOCS.parent / "CHANGELOG.md", *DOCS.glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    lines = re.findall(r"`(from leakgauge\S* import \w+)`", text)
    assert "from leakgauge.audit import in_order" in lines
    for line in lines:
        exec(line, {})
    assert "leakgauge.audit.in_order" not in text
