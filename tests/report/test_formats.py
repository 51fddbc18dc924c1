"""Texts and axes of scores, by the format that a record names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
from support import made

from leakgauge.records import Data, Headline
from leakgauge.report import render
from leakgauge.report.formats import FORMATS, Scale
from leakgauge.report.gallery import LAYOUTS


def test_every_name_that_a_record_may_hold_has_an_entry() -> None:
    assert set(FORMATS) == set(get_args(Headline.model_fields["format"].annotation))
    assert set(LAYOUTS) == set(get_args(Data.model_fields["layout"].annotation))


@pytest.mark.parametrize(
    ("name", "value", "text", "short"),
    [
        ("decibels", 31.24, "31.2 dB", "31.2"),
        ("decibels", math.inf, "exact", "exact"),
        ("percent", 0.666, "67%", "67%"),
        ("number", 1234.5, "1.23e3", "1.23e3"),
        ("number", 0.5, "0.5", "0.5"),
    ],
)
def test_scores_read(name: str, value: float, text: str, short: str) -> None:
    assert FORMATS[name].text(value) == text
    assert FORMATS[name].short(value) == short
    assert FORMATS[name].text(None) == "–"


@pytest.mark.parametrize(
    ("name", "low", "high", "told"),
    [
        ("decibels", 32.4, 35.7, "32.4–35.7 dB"),
        ("decibels", 32.4, math.inf, "32.4–exact"),
        ("decibels", math.inf, math.inf, "exact"),
        ("percent", 0.5, 0.83, "50–83%"),
        ("number", 2.0, 3.5, "2–3.5"),
        ("number", None, 3.5, "–"),
    ],
)
def test_ranges_read(name: str, low: float | None, high: float, told: str) -> None:
    assert FORMATS[name].span(low, high) == told


@pytest.mark.parametrize(
    ("name", "values", "levels", "distances"),
    [
        ("decibels", [12.0], Scale(top=30, step=10), Scale(top=20, step=5, limit=60)),
        ("decibels", [75.0], Scale(top=80, step=20), Scale(top=60, step=10, limit=60)),
        ("decibels", [250.0], Scale(top=100, step=20), Scale(top=60, step=10, limit=60)),
        ("percent", [0.1], Scale(top=1, step=0.25), Scale(top=1, step=0.25)),
        ("number", [37.0], Scale(top=40, step=10), Scale(top=40, step=10)),
        ("number", [0.0], Scale(top=1, step=0.2), Scale(top=1, step=0.2)),
    ],
)
def test_axes(name: str, values: list[float], levels: Scale, distances: Scale) -> None:
    assert FORMATS[name].levels(values) == levels
    assert FORMATS[name].distances(values) == distances


def test_no_score_has_an_axis_all_the_same() -> None:
    for format_ in FORMATS.values():
        assert format_.levels([]).top > 0


def test_a_page_of_a_stranger_s_kind_of_data_needs_nothing_but_its_record(tmp_path: Path) -> None:
    headline = made.SHARE.model_copy(
        update={
            "metric": "words_read",
            "heading": "words",
            "title": "words read",
            "unit": "words",
            "format": "number",
            "reads": "{score} words read",
        }
    )
    data = made.data("letter", headline=headline, layout="rows")
    control = {**made.cell().model_dump()["control"], "scores": {"words_read": (2.0,)}}
    verdict = made.cell().verdict.model_copy(update={"rule": "words", "floor": 5.0, "margin": None})
    cell = made.cell(
        data=data, scores={"words_read": (17.0,)}, control=control, verdict=verdict, images=None
    )
    page = render([made.header(), cell, made.end()], tmp_path)
    assert "17 words read (control 2)" in page
    assert '<span class="line">17 words</span>' in page


@pytest.mark.parametrize("value", [5e-324, 1e-310, 0.0, 1e100])
def test_an_axis_of_numbers_of_any_size(value: float) -> None:
    for scale in (FORMATS["number"].levels([value]), FORMATS["number"].distances([value, 0.0])):
        assert 0 < scale.step <= scale.top < math.inf
        assert scale.top >= value
