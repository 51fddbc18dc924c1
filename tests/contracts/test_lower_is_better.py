"""A modality whose score is an error, so that lower values leak more, from the specification to the report.

`toy_people` holds everything that a user of this modality writes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from toy_people import People, Years, network, people

import leakgauge as lg
from leakgauge.metrics.leak import Instead, LeakRule
from leakgauge.modalities import Modality
from leakgauge.records import Cell, Headline, read
from leakgauge.report import frontiers, parse, recommendations

SPECIFICATION = """
seed = 0

[[cases]]
name = "People"
data = "toy_people:people"
model = "toy_people:network"
attacks = ["linear_layer"]
defenses = ["none", {name = "gaussian_noise", std = [1e-4, 1.0, 100.0]}]

[cases.training]
batch_size = [1, 2]

[cases.utility]
rounds = 2
clients = 2
"""
RULE = LeakRule(name="close", text="", metric="years", floor=2.0, margin=5.0)
ANY = LeakRule(name="closer", text="", metric="years", floor=2.0)


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    (folder / "people.toml").write_text(SPECIFICATION)
    command = [sys.executable, "-m", "leakgauge", "audit", str(folder / "people.toml")]
    done = subprocess.run(
        [*command, "--out", str(folder / "run"), "--workers", "1"],
        # The specification names a module of this folder.
        cwd=Path(__file__).parent,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="module")
def run(printed: str, folder: Path) -> Path:
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def cells(run: Path) -> Sequence[Cell]:
    return parse(read(run / "records.jsonl")).cells


@pytest.mark.parametrize(
    ("score", "control", "expected"),
    [
        (0.0, 66.0, True),
        (2.0, 7.0, True),
        (2.1, 66.0, False),
        (2.0, 6.9, False),
        (66.0, 0.0, False),
        (0.0, 0.0, False),
    ],
)
def test_a_rule_reads_the_direction(score: float, control: float, expected: bool) -> None:
    assert RULE.leaked(score, control, better="lower") is expected


def test_without_a_margin_any_distance_counts() -> None:
    assert ANY.leaked(1.0, 1.1, better="lower") is True
    assert ANY.leaked(1.1, 1.0, better="lower") is False
    assert ANY.leaked(1.0, 1.0, better="lower") is False


@pytest.mark.parametrize(("other", "expected"), [(0.9, True), (0.1, False), (None, False)])
def test_another_score_has_a_direction_of_its_own(other: float | None, expected: bool) -> None:
    rule = replace(RULE, instead=Instead(metric="ssim", floor=0.5, better="higher"))
    assert rule.leaked(9.0, 66.0, other, better="lower") is expected


class TestTheRun:
    def test_an_exact_read_leaks_and_a_far_one_does_not(self, cells: Sequence[Cell]) -> None:
        bare, *_, noisy = [cell for cell in cells if cell.batch_size == 1]
        assert bare.scores["years"][0] == pytest.approx(0, abs=0.01)
        assert bare.verdict.leaks is True
        assert noisy.scores["years"][0] > 50
        assert noisy.verdict.leaks is False

    def test_the_frontier_counts_years_below_the_control(self, run: Path) -> None:
        (frontier,) = frontiers(parse(read(run / "records.jsonl")))
        bare, faint, *_ = frontier.settings
        assert bare.leaked
        assert faint.leaked
        for setting in frontier.settings:
            worst = setting.worst
            assert worst is not None
            assert worst.score is not None
            assert worst.control is not None
            assert setting.above == max(worst.control - worst.score, 0)
        assert bare.above > 5

    def test_what_leaked_is_not_recommended(self, run: Path) -> None:
        (advice,) = recommendations(run)
        assert advice.chosen is not None
        assert not advice.chosen.leaked
        text = " ".join(advice.lines())
        assert re.search(
            r"no defense: leaks: .* scored \S+ years \(blind control \S+ years\)", text
        )

    def test_the_page_tells_the_worst_and_the_side(self, page: str) -> None:
        assert "Private data leaked: in 1 of 2 undefended audits" in page
        assert "scored far beyond the blind control" in page
        worst = re.search(r"<dt>Worst leak</dt><dd>(.*?)</dd>", page)
        assert worst is not None
        assert re.search(r"within 0\S* years|read exactly", worst[1])
        assert "leakage below blind control, years" in page
        assert "below the blind control's. Down and to the right is better" in page
        assert "Higher is safer" in page
        assert "Lower is safer" not in page
        assert "error of the age, years (median; higher is safer)" in page
        assert "above control" not in page
        assert "above the control" not in page

    def test_the_page_speaks_of_its_own_score_and_rule(self, page: str) -> None:
        assert "Leakage is error of the age in years (lower leaks more). The table" in page
        assert "A person counts as leaked" in page
        for foreign in ("PSNR", "dB", "Columns read", "An image counts", "A table row counts"):
            assert foreign not in page

    def test_figures_hold_control_and_rule_within_their_axes(
        self, page: str, cells: Sequence[Cell]
    ) -> None:
        """A level beyond the axis would be drawn on the edge, like any other level beyond it."""
        highest = max(v for c in cells for v in (*c.scores["years"], *c.blind_values("years")) if v)
        tops = [
            float(tick) for tick in re.findall(r'<text class="tick end"[^>]*>(\d+)</text>', page)
        ]
        assert max(tops) >= highest * 0.9
        assert 'level-label rule" ' in page
        assert "leak rule 2<" in page

    def test_the_terminal_names_the_side(self, printed: str) -> None:
        assert "below control" in printed
        assert "above control" not in printed
        assert "Only a score below it shows leakage" in " ".join(printed.split())


def refused(modality: Modality) -> str:
    """Return why an audit of people with this modality is refused. The error is one line, before any attack runs."""
    data = replace(people(), domain=People(modality))
    case = lg.Case(name="people", data=data, model=network(), attacks=[lg.attacks.LinearLayer()])
    with pytest.raises(lg.DataError) as caught:
        case.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def headline(**changes: Any) -> Headline:
    return Years.headline.model_copy(update=changes)


class TestMetricsThatDoNotExist:
    def test_of_a_headline(self) -> None:
        class Misspelt(Years):
            headline: ClassVar[Headline] = headline(metric="yeers")

        reason = refused(Misspelt())
        assert "headline: expected a metric that its modality measures: 'years'" in reason
        assert "found 'yeers'" in reason

    @pytest.mark.parametrize(
        "wrong",
        [
            replace(RULE, metric="yeers"),
            replace(RULE, instead=Instead(metric="yeers", floor=1.0, better="lower")),
        ],
    )
    def test_of_a_rule(self, wrong: LeakRule) -> None:
        class Misspelt(Years):
            rule: ClassVar[LeakRule | None] = wrong

        reason = refused(Misspelt())
        assert "rule 'close': expected a metric that its modality measures: 'years'" in reason
        assert "found 'yeers'" in reason

    def test_a_rule_on_a_score_of_unknown_direction(self) -> None:
        class Two(Years):
            rule: ClassVar[LeakRule | None] = replace(RULE, metric="height")

            def metrics(self, domain: lg.Domain, decoys: torch.Tensor) -> dict[str, Any]:
                return {
                    name: super(Two, self).metrics(domain, decoys)["years"]
                    for name in ["years", "height"]
                }

        assert "expected the metric of the headline, 'years'" in refused(Two())

    def test_decibels_of_errors(self) -> None:
        class Loud(Years):
            headline: ClassVar[Headline] = headline(format="decibels")

        assert "format='number'" in refused(Loud())

    def test_no_headline(self) -> None:
        class Bare(Years):
            headline: ClassVar[Any] = None

        assert "expected a leakgauge.records.Headline" in refused(Bare())
