"""Sentences on the page: colored by what was read, escaped, and without what a record may hide in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.made import blind, cell, data, header

from leakgauge import report
from leakgauge.modalities import TextModality
from leakgauge.records import Cell
from leakgauge.report.sentences import line, lines


def sentence(*tokens: tuple[str, str]) -> list[dict[str, str]]:
    """Return the record of a sentence from the text of each token and where it was read."""
    return [{"text": text, "read": read} for text, read in tokens]


ORIGINAL = sentence(
    (" red", "place"),
    (" fish", "place"),
    ("es", "sentence"),
    (" swim", "batch"),
    (" far", "nowhere"),
)
FOUND = sentence((" red", "place"), (" fish", "place"), (" up", "nowhere"), ("es", "sentence"))
BLIND = sentence((" red", "place"), (" <b>", "nowhere"))


def text_cell(**changes: Any) -> Cell:
    """Return a cell of one sentence. Three of its five tokens were read."""
    sides = {"original": [ORIGINAL], "reconstruction": [FOUND], "control": [BLIND]}
    own = {
        "data": data(
            kind="text",
            name="letters",
            layout="sentences",
            headline=TextModality.headline,
            label_names=("kind",),
        ),
        "images": None,
        "sentences": sides,
        "scores": {"token_bag": (0.6,), "token_accuracy": (0.4,), "rouge1": (0.5,)},
        "control": blind(token_bag=0.2),
        "perceptual": "ROUGE by the package rouge-score, without stemming",
    }
    return cell(**(own | changes))


def page_of(found: Cell, folder: Path) -> str:
    return report.render([header(), found], folder)


def test_neighboring_tokens_read_alike_are_one_span() -> None:
    spans = lines(text_cell(), 0)["original"].spans
    assert [(s.read, s.before, s.text, s.count) for s in spans] == [
        ("place", "", "red fish", 2),
        ("sentence", "", "es", 1),
        ("batch", " ", "swim", 1),
        ("nowhere", " ", "far", 1),
    ]


def test_the_page_shows_each_side_and_marks_what_was_read(tmp_path: Path) -> None:
    page = page_of(text_cell(), tmp_path)
    assert '<mark class="w place" title="read at its place">red fish</mark>' in page
    assert '<span class="w nowhere">far</span>' in page
    assert "60% read" in page
    assert "in place 40%" in page
    assert "struck out" in page
    assert "Tokens read" in page
    assert "rouge-score, without stemming" in page
    assert "Network of LPIPS" not in page


def test_sentences_are_escaped(tmp_path: Path) -> None:
    evil = sentence(("<script>alert(1)</script>", "place"), ("\x1b[31m\u202e&", "nowhere"))
    page = page_of(
        text_cell(sentences={"original": [evil], "reconstruction": [evil], "control": [evil]}),
        tmp_path,
    )
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    nothing = {"original": [ORIGINAL], "reconstruction": [[]], "control": []}
    page = page_of(text_cell(sentences=nothing), tmp_path)
    assert "no tokens" in page
    assert "no sentence" in page
    assert "no sentence" in page_of(text_cell(sentences=None), tmp_path)


def test_a_sentence_that_was_not_found_shows_no_placeholder(tmp_path: Path) -> None:
    found = lines(text_cell(found=(False,)), 0)
    assert found["reconstruction"].missing == "nothing was found"
    assert {span.read for span in found["original"].spans} == {"nowhere"}


def test_line_breaks_have_a_sign() -> None:
    cell_ = text_cell(
        sentences={
            "original": [sentence(("a", "place"), ("\n", "place"), (" b", "nowhere"))],
            "reconstruction": [],
            "control": [],
        }
    )
    assert cell_.sentences is not None
    assert line(cell_.sentences.original, 0).spans[0].text == "a\u21b5"


def test_pages_of_other_data_have_no_legend_of_tokens(tmp_path: Path) -> None:
    assert not re.search(r'class="key"|Tokens read', page_of(cell(), tmp_path))


@pytest.mark.parametrize("theme", ["--right", "--near", "--far"])
def test_each_color_has_a_dark_variant(theme: str, tmp_path: Path) -> None:
    page = page_of(text_cell(), tmp_path)
    assert len(re.findall(rf"{theme}:", page)) == 2
