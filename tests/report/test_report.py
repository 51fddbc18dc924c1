"""The report is drawn from records alone, is self-contained, and says what it does not know."""

from __future__ import annotations

import ast
import base64
import gc
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.made import (
    cell,
    defended,
    defense,
    end,
    failed,
    header,
    inapplicable,
    table,
    training,
)

from leakgauge import report
from leakgauge.core.errors import DataError, OutputError
from leakgauge.metrics.leak import IMAGE_RULE, TABLE_RULE
from leakgauge.records import Cell, Column, Record, line_of, read
from leakgauge.records.values import measured
from leakgauge.report import figures, parse, render, write_report
from leakgauge.report.gallery import read_within
from leakgauge.report.leak import verdict
from leakgauge.report.quantiles import median, quantile


def draw(folder: Path, *records: Record, **changes: Any) -> str:
    """Return the page of a run with these records."""
    return render([header(planned=len(records), **changes), *records, end()], folder)


def written(folder: Path, *records: Record) -> None:
    """Write the records of a run into a folder."""
    (folder / "records.jsonl").write_bytes(b"".join(map(line_of, records)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("score", "control", "expected"),
    [
        (20.0, 17.0, True),
        (19.99, 5.0, False),
        (30.0, 27.1, False),
        (30.0, 27.0, True),
        (200.0, 9.0, True),
        (200.0, 200.0, False),
        (200.0, 199.0, True),
        (None, 9.0, None),
        (40.0, None, None),
    ],
)
def test_the_rule_of_images_at_its_edges(
    score: float | None, control: float | None, expected: bool | None
) -> None:
    assert IMAGE_RULE.leaked(score, control, better="higher") is expected


@pytest.mark.parametrize(
    ("score", "control", "expected"), [(0.5, 0.4, True), (0.49, 0.0, False), (0.6, 0.6, False)]
)
def test_the_rule_of_tables_at_its_edges(score: float, control: float, expected: bool) -> None:
    assert TABLE_RULE.leaked(score, control, better="higher") is expected


def test_metrics_of_image_priors_are_shown_where_records_hold_them(folder: Path) -> None:
    old = draw(folder, cell())
    assert not any(word in old for word in ("LPIPS", "FFT2D", "IIP", "identified"))
    scores = {"psnr": [21.0], "ssim": [0.7], "lpips_squeeze": [0.3124], "fft2d": [1.23e-4]}
    record = cell(
        scores=scores | {"iip_squeeze": [0.0], "iip_pixels": [1.0]},
        perceptual="LPIPS by SqueezeNet 1.1",
        candidates=101,
    )
    page = draw(folder, record)
    for words in ("LPIPS 0.312", ">0.00012<", "not identified among 101", "by SqueezeNet 1.1."):
        assert words in page
    for heading in ("SSIM", "LPIPS", "FFT2D", "IIP"):
        assert f'<th scope="col" class="n">{heading}</th>' in page
    assert "MS-SSIM" not in page


def test_identification_by_pixels_stands_in_where_there_are_no_features(folder: Path) -> None:
    record = cell(scores={"psnr": [21.0], "iip_pixels": [1.0]}, candidates=12)
    page = draw(folder, record)
    assert (
        '<span title="Whether it is nearest to its own original. See IIP below.">identified among 12<'
        in page
    )


@pytest.mark.parametrize(
    ("psnr", "ssim", "expected"), [(17.6, 0.5, True), (17.6, 0.49, False), (9.9, 0.9, False)]
)
def test_structure_that_a_person_sees_counts(psnr: float, ssim: float, expected: bool) -> None:
    assert IMAGE_RULE.leaked(psnr, 7.0, ssim, better="higher") is expected


def test_an_example_without_a_guess_did_not_leak() -> None:
    assert IMAGE_RULE.judge(
        {"psnr": [40.0, 40.0, None]}, {}, [False, True, False], better="higher"
    ) == (
        False,
        None,
        None,
    )


def test_not_a_number_is_not_judged(folder: Path) -> None:
    unscored = cell(math.nan)
    assert unscored.scores["psnr"] == (None,)
    assert unscored.verdict.leaks is None
    assert "not judged" in draw(folder, unscored)


def test_verdict_counts_undefended_audits_and_names_what_held() -> None:
    records = [
        cell(61.2, attack={"name": "idlg", "repr": "IDLG()"}),
        cell(40.0),
        cell(12.0, case="faces"),
        inapplicable(),
        defended(0.001, 35.0),
        defended(0.1, 9.0, status="unconverged"),
    ]
    told = verdict(records)
    assert told.tone == "leak"
    assert "in 2 of 3 undefended audits" in told.sentence
    assert "61.2 dB" in told.worst
    assert "by idlg" in told.worst
    assert told.held == "noise (std = 0.1)"
    assert told.broken == "noise (std = 0.001)"
    assert told.caveat.startswith("1 audit without a leak")


def test_a_defense_is_not_credited_where_nothing_leaked_without_it() -> None:
    told = verdict([cell(10.0), defended(0.1, 9.0)])
    assert told.tone == "held"
    assert "in 1 undefended audit, no example scored far above the blind control" in told.sentence
    assert told.held == ""


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "this run holds no audits"),
        ([inapplicable()], "the only audit is inapplicable."),
        ([cell(None), cell(None)], "all audits are inapplicable or unscored"),
        ([defended(0.1, 40.0)], "through a defense: in 1 of 1 defended audit"),
    ],
)
def test_verdict_without_undefended_scores(records: list[Cell], words: str) -> None:
    assert words in verdict(records).sentence


def test_page_is_self_contained(folder: Path) -> None:
    page = draw(folder, cell(), table(), defended(0.1, 9.0))
    assert "http://" not in page
    assert "https://" not in page
    links = re.findall(r"""\b(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", page)
    assert sum(link.startswith("data:image/png;base64,") for link in links) == 5
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_script_may_run_under_the_page_s_own_policy(folder: Path) -> None:
    page = draw(folder, cell())
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_html_in_records_is_escaped(folder: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    attack = {"name": hostile, "repr": hostile}
    noisy = defense(hostile, hostile, hostile, repr_=hostile)
    records = [
        cell(case=hostile, attack=attack, message=hostile, notes=[hostile]),
        cell(case=hostile, attack=attack, defense=noisy, id=hostile),
    ]
    page = draw(folder, *records, specification=hostile, command=hostile)
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") >= 10


def test_every_audit_has_its_line(folder: Path) -> None:
    records = [cell(id=f"photographs/b1/none/attack{i}") for i in range(50)]
    page = draw(folder, *records)
    lines = re.findall(r"<small>(photographs/b1/none/attack\d+)</small>", page)
    assert lines == [record.id for record in records]


def test_partial_run_says_so(folder: Path) -> None:
    notice = "This report is partial"
    assert notice not in draw(folder, cell())
    cut = render([header(planned=24), cell()], folder)
    assert notice in cut
    assert "1 of 24 planned audits" in cut
    assert notice in render([header(), cell(), end(interrupted=True)], folder)
    assert notice in render([header(), cell(), end(planned=2)], folder)


def test_inapplicable_audit_says_why(folder: Path) -> None:
    page = draw(folder, inapplicable())
    assert page.count("a batch of one is needed; this holds &lt;8&gt;") == 2


def test_knowledge_is_told_beside_the_result(folder: Path) -> None:
    page = draw(folder, cell())
    assert re.findall(r"<s>(.*?)</s>", page) == ["labels", "label counts", "defense"]
    assert "<span>batch size</span>" in page


def test_sweep_has_a_point_for_each_scored_strength(folder: Path) -> None:
    strengths = [(1e-4, 39.0), (1e-3, 30.0), (1e-2, 12.0), (1e-1, None)]
    page = draw(folder, cell(), *(defended(s, p) for s, p in strengths))
    assert page.count('<svg class="sweep"') == 1
    assert page.count('class="point leaked"') == 2
    assert page.count('class="point held"') == 1
    assert "std (log scale)" in page
    assert "undefended 40.0" in page
    assert "Leaked at 0.0001, 0.001. Held at 0.01." in page
    assert page.count("<image ") == 5  # Four strengths and the original.


def test_strengths_are_placed_by_their_scale() -> None:
    assert figures.scale([0.1, 1.0, 10.0]) == "log"
    assert figures.scale([1.0, 30.0]) == "linear"
    assert figures.scale(["fp16", "int8"]) == "even"
    assert figures.scale([0.0, 0.001, 1.0]) == "even"
    left, middle, right = figures.places([1e-3, 1e-2, 1e-1], 0.0, 300.0)
    assert middle - left == pytest.approx(right - middle)


def test_slots_keep_their_distance_and_stay_inside() -> None:
    slots = figures.spread([50.0, 190.0, 195.0, 200.0], 40.0, 0.0, 200.0)
    assert slots == [50.0, 120.0, 160.0, 200.0]


def test_table_shows_units_and_marks_what_was_read(folder: Path) -> None:
    page = draw(folder, table())
    assert "54 years" in page
    assert "6.1 mmol/L" in page
    assert page.count('<td class="n hit">') == 1  # The age was read, glucose was not.


def test_a_column_is_read_within_one_percent_of_its_range() -> None:
    column = Column(name="age", unit="years", low=0, high=120, decimals=0, tolerance=1.2)
    assert read_within(55.2, 54.0, column)
    assert not read_within(55.21, 54.0, column)
    assert not read_within(None, 54.0, column)


def test_pictures_outside_the_folder_stay_outside(folder: Path) -> None:
    inner = folder / "run"
    inner.mkdir()
    images = {"original": ["../a.png"], "reconstruction": ["gone.png"], "control": ["../a.png"]}
    page = draw(inner, cell(images=images))
    assert "data:image/png" not in page
    assert page.count("no picture</span>") == 3


def test_quantiles_of_decibels_survive_an_exact_copy() -> None:
    assert median([10.0, math.inf, 30.0]) == 30.0
    assert quantile([0.0, 10.0], 0.25) == 2.5
    assert median([None]) is None


def test_write_reads_records_and_leaves_only_the_page(folder: Path) -> None:
    written(folder, header(), cell(200.0), end())
    before = {path.name for path in folder.iterdir()}
    path = write_report(folder)
    assert path == folder / "report.html"
    assert {p.name for p in folder.iterdir()} == before | {"report.html"}
    assert "reconstructed exactly" in path.read_text(encoding="utf-8")


def test_missing_records_are_a_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records\.jsonl.*no such file") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(line_of(header()) + b'{"type": "cel\n')
    with pytest.raises(DataError, match=r"records\.jsonl, line 2"):
        write_report(tmp_path)


@pytest.mark.parametrize("rest", ['{"type": "cel', '{"type": "cell", "id": "', "{"])
def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path, rest: str) -> None:
    whole = line_of(header(planned=2)) + line_of(cell())
    (tmp_path / "records.jsonl").write_bytes(whole + rest.encode())
    page = write_report(tmp_path).read_text("utf-8")
    assert "1 of 2 planned audits" in page


def test_audits_are_shown_in_the_order_of_the_plan(folder: Path) -> None:
    late, early = cell(id="late", index=1), cell(id="early", index=0)
    page = render([header(), late, early], folder)
    assert page.index("<small>early</small>") < page.index("<small>late</small>")


def test_a_page_that_cannot_be_written_is_a_user_s_mistake(tmp_path: Path) -> None:
    written(tmp_path, header())
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))


def test_the_room_imports_nothing_of_ours_but_errors_and_records() -> None:
    room = Path(report.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in room.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    ours = {name for name in names if name.startswith("leakgauge")}
    assert ours >= {"leakgauge.core.errors", "leakgauge.records"}
    allowed = ("leakgauge.report", "leakgauge.records", "leakgauge.core.errors")
    assert all(name.startswith(allowed) for name in ours)


ANYTHING: list[Any] = [
    math.inf,
    -math.inf,
    math.nan,
    1e308,
    -1e308,
    10**400,
    10**5000,
    -1,
    0,
    None,
    True,
]
ANYTHING += ["\ud800\x1b\u202e", [], {}, [[]], {"a": {}}, [1] * 1000]


class TestRecordsOfOthers:
    """Bytes that another program wrote are refused with a message of one line, or read leniently."""

    @pytest.mark.parametrize(
        "line",
        ["[" * 100_000, '{"type": "cell"}', '{"type": ' + "9" * 5000 + "}", "\x1b[2J", '{"a": 1}'],
    )
    def test_lines_that_are_no_record(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "records.jsonl").write_text(line + "\n{}\n")
        with pytest.raises(DataError, match=r"records\.jsonl, line 1") as caught:
            read(tmp_path / "records.jsonl")
        assert str(caught.value).isprintable()

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "records.jsonl")
        with pytest.raises(DataError, match="named pipe"):
            read(tmp_path / "records.jsonl")

    @pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, 10**400, -(10**400)])
    def test_what_is_no_finite_number_is_missing(self, value: float) -> None:
        assert measured(value) is None

    @pytest.mark.parametrize(
        "content", ["", "\n\n", line_of(end()).decode(), line_of(cell()).decode()]
    )
    def test_a_folder_without_a_header_is_refused_in_one_line(
        self, tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "records.jsonl").write_text(content)
        for draws in (write_report, report.recommendations):
            with pytest.raises(DataError, match="header of a run") as caught:
                draws(tmp_path)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("collecting", [True, False])
    def test_reading_leaves_the_garbage_collector_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collecting: bool
    ) -> None:
        (tmp_path / "records.jsonl").write_bytes(line_of(header()) + b"[]\n")
        told: list[bool] = []
        monkeypatch.setattr(gc, "isenabled", lambda: collecting)
        monkeypatch.setattr(gc, "disable", lambda: told.append(False))
        monkeypatch.setattr(gc, "enable", lambda: told.append(True))
        with pytest.raises(DataError):
            read(tmp_path / "records.jsonl")
        assert told == ([False, True] if collecting else [False])

    @pytest.mark.parametrize("turn", range(len(ANYTHING)))
    def test_every_field_may_hold_anything(self, folder: Path, turn: int) -> None:
        """The file is drawn, or refused with a message of one line that names the line of the file."""
        trainings = [training(), training(repeat=1, epsilon=EPSILON)]
        whole = [
            header(),
            cell(),
            defended(0.1, 30.0),
            table(case="t"),
            failed(),
            *trainings,
            end(),
        ]
        told = [record.model_dump(mode="json") for record in whole]
        value = ANYTHING[turn]
        places = [(i, k) for i, record in enumerate(told) for k in record]
        # The value replaces the whole field, and then each leaf inside the field.
        for i, key in places[turn % 5 :: 5]:
            for below in (value, spoiled(told[i][key], value)):
                edited = [*told[:i], told[i] | {key: below}, *told[i + 1 :]]
                self.drawn_or_refused(folder, edited)

    def drawn_or_refused(self, folder: Path, records: list[dict[str, Any]]) -> None:
        lines = "".join(text(record) + "\n" for record in records)
        (folder / "records.jsonl").write_text(lines, errors="surrogatepass")
        refused: list[DataError] = []
        with catching(refused):
            found = read(folder / "records.jsonl")
            page = render(found, folder)
        if refused:
            told = str(refused[0])
            assert told.isprintable()
            assert re.match(r"records(\.jsonl, line \d+)?: expected .*; found .*; ", told)
            return
        page.encode("utf-8")
        assert "\x1b" not in page
        assert "\u202e" not in page
        for advice in report.frontiers(parse(found)):
            json.dumps(report.recommend(advice).as_json(), allow_nan=False)

    @pytest.mark.parametrize(
        "path",
        [
            ("scores", "psnr", 0),
            ("control", "scores", "psnr", 0),
            ("cost", "seconds"),
            ("residual",),
        ],
    )
    @pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e308])
    def test_a_measurement_may_be_missing(
        self, folder: Path, path: tuple[str | int, ...], value: float | None
    ) -> None:
        record = cell(verdict=VERDICT).model_dump(mode="json")
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / "records.jsonl").write_text("\n".join(map(text, [HEADER, record])) + "\n")
        page = write_report(folder).read_text("utf-8")
        assert ("–" in page) or path == ("residual",)

    def test_trainings_of_a_case_that_was_not_attacked(self) -> None:
        (found,) = report.frontiers(parse([header(), cell(), training(case="other"), end()]))
        assert "against none" in report.recommend(found).caveat


EPSILON = {"value": 1.0, "delta": 1e-5, "steps": 2, "sample_rate": 1.0, "note": "n"}
HEADER = header().model_dump(mode="json")
VERDICT = cell().verdict


@contextmanager
def catching(refused: list[DataError]) -> Iterator[None]:
    """Append the error of a refused file to `refused`."""
    try:
        yield
    except DataError as error:
        refused.append(error)


def text(record: dict[str, Any]) -> str:
    """Return JSON that may hold NaN, infinities, and numbers of any length."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(record)
    finally:
        sys.set_int_max_str_digits(limit)


def spoiled(record: Any, value: object) -> Any:
    """Return a part of a record in which `value` replaces every leaf."""
    if isinstance(record, dict):
        return {k: spoiled(v, value) for k, v in record.items()}
    if isinstance(record, list):
        return [spoiled(item, value) for item in record]
    return value


def test_the_page_names_the_scores_of_its_run(folder: Path) -> None:
    both = draw(folder, cell(), table(index=1))
    assert "Leakage is PSNR for images and the fraction of columns read for tables." in both
    assert "<dt>Columns read</dt>" in both
    images = draw(folder, cell())
    assert "Leakage is PSNR. The table shows the median" in images
    assert "columns read" not in images.lower().replace("50% of its columns are read", "")
    assert "Leakage is PSNR" not in draw(folder)


def test_the_page_prints_what_was_counted_for_the_case(folder: Path) -> None:
    mine, other = (
        {"case": name, "verdict": f"Exact to batch {batch} <b>.", "exact": batch}
        for name, batch in ((cell().case, 7), ("another", 8))
    )
    page = render([header(inspected=(mine, other)), cell(), end()], folder)
    assert "By counting, without a defense:</b> Exact to batch 7 &lt;b&gt;." in page
    assert "Exact to batch 8" not in page
    assert "By counting" not in draw(folder, cell())


def test_a_run_without_a_rule_says_so(folder: Path) -> None:
    page = render([header(rules=()), cell(), end()], folder)
    assert "There is no rule for the data of this run" in page
