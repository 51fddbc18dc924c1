"""A damaged file of results ends the generator of pages in one clear line, and no page changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# At the end: `zoo` is also the name of a package of the tests.
sys.path.append(str(ROOT / "benchmarks"))

from tables import generator, table  # type: ignore[import-not-found]  # noqa: E402
from tables.documents import Damaged, Document, load, once  # type: ignore[import-not-found]  # noqa: E402
from tables.figures import values  # type: ignore[import-not-found]  # noqa: E402

NAME = "decentralized"
WHOLE: dict[str, Any] = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))
ROW: dict[str, Any] = WHOLE["rows"][0]


def text(**changed: object) -> str:
    """Return the results with other fields."""
    return json.dumps(WHOLE | changed)


DAMAGED = {
    "cut": text()[:5000],
    "empty": "",
    "list": "[]",
    "null": "null",
    "no rows": json.dumps({k: v for k, v in WHOLE.items() if k != "rows"}),
    "empty rows": text(rows=[]),
    "rows of numbers": text(rows=[1, 2]),
    "NaN": text(rows=[ROW | {"psnr": float("nan")}]),
    "infinity": text(rows=[ROW | {"naive": {"psnr": [1.0, float("inf")]}}]),
    "beyond floats": text(rows=[ROW | {"psnr": 0}]).replace('"psnr": 0', '"psnr": 1e999'),
    "other benchmark": text(benchmark="color"),
    "path": text(benchmark="../color"),
    "no commit": text(rows=[ROW | {"commit": None}]),
    "commit of Markdown": text(commit="`<b>|"),
    "data in two lines": text(data="a\nb"),
    "no versions": text(versions={}),
    "date": text(finished="yesterday"),
    "planned": text(planned="many"),
    "deep": "[" * 100_000,
    "long number": text(rows=[ROW | {"psnr": 0}]).replace('"psnr": 0', f'"psnr": {"9" * 5000}'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.json"
    path.write_text(DAMAGED[damage], "utf-8")
    with pytest.raises(Damaged) as caught:
        load(NAME, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{path}: expected ")
    assert "\n" not in said
    assert len(said) < 600


def test_bytes_that_are_no_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="No such file"):
        load(NAME, tmp_path)
    (tmp_path / f"{NAME}.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(Damaged, match="decode"):
        load(NAME, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("psnr", "90"), ("psnr", ["90"]), ("psnr", {"a": 1}), ("psnr", 10**400), ("rate", "x")],
)
def test_rows_of_other_types_are_refused(field: str, value: object) -> None:
    document = load(NAME)
    document.rows[3][field] = value
    page = generator.page_of(document)
    with pytest.raises(Damaged, match="rows with the fields that its page reads"):
        generator.fitting(Path("a.json"), lambda: generator.written(page, document))


def test_rows_without_a_key_are_refused() -> None:
    document = load(NAME)
    del document.rows[3]["network"]
    page = generator.page_of(document)
    with pytest.raises(Damaged, match="network"):
        generator.fitting(Path("a.json"), lambda: generator.written(page, document))


def test_null_counts_as_no_value() -> None:
    assert values([{"psnr": None}, {"psnr": [None, 2]}, {}], "psnr") == [2.0]


def test_words_of_rows_stay_in_their_cell() -> None:
    assert table.word({"a": "x\ny | <b> `"}, "a") == r"x y \| &lt;b> \`"


def test_huge_numbers_stay_short() -> None:
    column = table.Column("dB", len)
    assert column.text(-1e308) == "-1.0e+308"
    assert column.text(float("-inf")) == "-∞"


def test_no_page_changes_if_one_file_is_damaged(tmp_path: Path) -> None:
    """The command ends with exit code 2 and one line, before it writes anything."""
    results, pages = tmp_path / "results", tmp_path / "pages"
    shutil.copytree(RESULTS, results)
    pages.mkdir()
    (pages / "april.md").write_text("old", "utf-8")
    (results / "zoo.json").write_text("{", "utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "pages.py")]
    folders = ["--results", str(results), "--pages", str(pages)]
    for mode in ([], ["--check"]):
        done = subprocess.run([*command, *mode, *folders], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{results / 'zoo.json'}: expected a whole file of JSON")
        assert done.stderr.count("\n") == 1
    assert [path.read_text("utf-8") for path in pages.iterdir()] == ["old"]


@pytest.mark.parametrize("change", [b" ", b"\r\n", b"\xff"])
def test_any_change_of_a_page_is_found(
    change: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space, another end of a line and bytes that are no text are changes."""
    monkeypatch.setattr(generator, "texts", lambda every, results: {"a.md": "a\nb\n"})
    (tmp_path / "a.md").write_bytes(b"a\nb\n")
    assert generator.different(folder=tmp_path) == []
    (tmp_path / "a.md").write_bytes(b"a\nb\n".replace(b"\n", change, 1))
    assert generator.different(folder=tmp_path) == ["a.md"]


def test_a_row_of_another_commit_is_named() -> None:
    rows = [{"commit": "a" * 12}, {"commit": "b" * 12 + "+changes"}, {"commit": "a" * 12}]
    assert Document("a", {"commit": "c" * 12}, rows).commits == ["a" * 7, "b" * 7 + "+"]


def test_a_row_that_is_there_twice_counts_once() -> None:
    assert once([{"a": 1, "b": 2}, {"a": 2}, {"b": 2, "a": 1}]) == [{"a": 1, "b": 2}, {"a": 2}]
