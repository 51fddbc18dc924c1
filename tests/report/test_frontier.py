"""Leakage against accuracy: dominated settings, recommendations, and the figure."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

import pytest
from support.frontiers import BARE, END, HEADER, advised, attacked, frontier, one, own, trained
from support.made import (
    data,
    defense,
)

from leakgauge import report
from leakgauge.core.errors import DataError
from leakgauge.records import Record
from leakgauge.report import Frontier, Setting
from leakgauge.report.labels import LINE, MARK, PITCH, Box, place

EPSILON = {"value": None, "delta": 1e-5, "steps": 2, "sample_rate": 1.0, "note": ""}


def by_name(found: Frontier) -> dict[str, Setting]:
    """Return the settings of a frontier by their names."""
    return {setting.name: setting for setting in found.settings}


class TestFrontier:
    def test_leakage_is_that_of_the_worst_attack(self) -> None:
        found = frontier(
            *BARE,
            attacked("noise", 1.0, 15.0, attack="weak"),
            attacked("noise", 1.0, 31.0, attack="strong", control=9.0),
            attacked("noise", 1.0, 12.0, attack="strong", size=2),
            trained("noise", 1.0, 0.8),
        )
        noise = by_name(found)["noise, amount = 1"]
        assert noise.worst is not None
        assert (noise.worst.attack, noise.worst.batch_size, noise.above) == ("strong", 1, 22.0)
        assert noise.leaked
        assert noise.loss == pytest.approx(0.1)

    def test_a_leak_is_worse_than_a_higher_score_without(self) -> None:
        """By the rule, 18 dB with a control of 5 dB is no leak, and 20 dB with a control of 17 dB is one."""
        found = frontier(
            *BARE,
            attacked("noise", 1.0, 18.0, attack="a", control=5.0),
            attacked("noise", 1.0, 20.0, attack="b", control=17.0),
            trained("noise", 1.0, 0.8),
        )
        worst = by_name(found)["noise, amount = 1"].worst
        assert worst is not None
        assert worst.attack == "b"

    def test_nothing_below_control_is_less_leakage(self) -> None:
        found = frontier(*BARE, *one("a", 1, 2.0, 0.8), *one("b", 1, 8.0, 0.81))
        settings = by_name(found)
        assert settings["a, amount = 1"].above == 0.0
        assert settings["a, amount = 1"].dominated_by == "b, amount = 1"

    def test_dominated_is_what_another_beats_in_one_and_matches_in_the_other(self) -> None:
        found = frontier(
            *BARE,
            *one("a", 1, 30.0, 0.88),
            *one("a", 2, 8.0, 0.70),
            *one("b", 1, 30.0, 0.89),
            *one("b", 2, 40.0, 0.50),
            *one("c", 1, 30.0, 0.89),
        )
        told = {name: setting.dominated_by for name, setting in by_name(found).items()}
        assert told.pop("a, amount = 1") in ("b, amount = 1", "c, amount = 1")
        assert told.pop("b, amount = 2") in ("b, amount = 1", "c, amount = 1")
        assert set(told.values()) == {None}  # Equal settings do not dominate each other.

    def test_repeats_are_a_mean_with_its_spread(self) -> None:
        found = frontier(
            attacked("none", None, 60.0),
            trained("none", None, 0.8, repeat=0),
            trained("none", None, 0.9, repeat=1),
        )
        bare = found.settings[0]
        assert bare.accuracy == pytest.approx(0.85)
        assert bare.spread == pytest.approx(math.sqrt(0.005))
        assert found.repeats == 2
        assert bare.error == pytest.approx(math.sqrt(0.85 * 0.15 / 400))

    def test_what_was_not_attacked_is_not_placed(self) -> None:
        found = frontier(*BARE, trained("noise", 1.0, 0.95))
        assert [setting.name for setting in found.placed] == ["no defense"]
        assert found.settings[0].dominated_by is None

    def test_a_training_without_its_case_is_refused(self) -> None:
        with pytest.raises(DataError, match="a record of type 'training', case"):
            frontier(trained("none", None, 0.9, case=""))


class TestRecommendation:
    def test_the_least_loss_that_holds(self) -> None:
        advice = advised(
            *BARE, *one("a", 1, 30.0, 0.90), *one("a", 2, 9.0, 0.89), *one("b", 1, 8.0, 0.84)
        )
        assert advice.chosen is not None
        assert (advice.chosen.name, advice.evidence) == ("a, amount = 2", "firm")
        assert {r.setting.name: list(r.reasons) for r in advice.refused} == {
            "no defense": ["leaks"],
            "a, amount = 1": ["leaks"],
            "b, amount = 1": ["costs too much"],
        }
        assert "loses 6 points" in advice.refused[-1].words
        assert "dlg" in advice.caveat

    def test_between_what_the_test_set_cannot_tell_apart_bytes_then_seconds_decide(self) -> None:
        """The standard error at 0.9 of 400 examples is 0.015."""
        a = one("a", 1, 8.0, 0.900, sent=500)
        b = one("b", 1, 8.0, 0.890, sent=300, seconds=2.0)
        c = one("c", 1, 8.0, 0.889, sent=300, seconds=1.0)
        d = one("d", 1, 8.0, 0.884, sent=100)
        chosen = advised(*BARE, *a, *b, *c, *d).chosen
        assert chosen is not None
        assert chosen.defense == "c"
        swift = advised(*BARE, *a, *one("b", 1, 8.0, 0.890, sent=300, seconds=1.05), *c).chosen
        assert swift is not None
        assert swift.defense == "b"  # Seconds that differ by 5% may be noise of the machine.

    def test_one_leaking_attack_refuses(self) -> None:
        advice = advised(
            attacked("none", None, 60.0),
            attacked("none", None, 60.0, attack="other"),
            trained("none", None, 0.9),
            attacked("a", 1, 8.0),
            attacked("a", 1, 33.0, attack="other"),
            trained("a", 1, 0.9),
        )
        assert advice.chosen is None
        assert "other, batch of 1, scored 33.0 dB (blind control 8.0 dB)" in advice.refused[1].words

    def test_firm_evidence_goes_before_weak(self) -> None:
        weak = [attacked("a", 1, 8.0, status="unconverged"), trained("a", 1, 0.90)]
        advice = advised(*BARE, *weak, *one("b", 1, 8.0, 0.885))
        assert advice.chosen is not None
        assert (advice.chosen.defense, advice.evidence) == ("b", "firm")
        assert advice.refused[-1].reasons == ("weak evidence",)
        alone = advised(*BARE, *weak)
        assert alone.chosen is not None
        assert (alone.chosen.defense, alone.evidence) == ("a", "weak")
        assert "evidence is weak" in alone.sentence

    def test_an_attack_that_reads_nothing_undefended_tells_nothing(self) -> None:
        """The attack that leaks the undefended update is inapplicable, so the defense was not tested."""
        advice = advised(
            attacked("none", None, 60.0),
            attacked("none", None, 8.0, attack="blunt"),
            trained("none", None, 0.9),
            attacked("a", 1, None, status="inapplicable"),
            attacked("a", 1, 8.0, attack="blunt"),
            trained("a", 1, 0.9),
        )
        assert advice.chosen is None
        assert advice.refused[-1].reasons == ("not attacked",)
        assert "applicable" in advice.refused[-1].words

    def test_where_nothing_leaks_no_defense_is_needed(self) -> None:
        advice = advised(
            attacked("none", None, 9.0), trained("none", None, 0.9), *one("a", 1, 8.0, 0.92)
        )
        assert advice.chosen is not None
        assert advice.chosen.undefended
        assert advice.sentence.startswith("No defense is needed against these attacks")

    def test_where_nothing_qualifies_the_nearest_are_told(self) -> None:
        advice = advised(*BARE, *one("a", 1, 30.0, 0.89), *one("a", 2, 8.0, 0.80))
        assert advice.chosen is None
        assert advice.sentence.startswith("No setting tried")
        assert "a, amount = 2. It loses 10 points of accuracy" in advice.nearest[0]
        assert "leaked least: a, amount = 1. The strongest attack on it: dlg" in advice.nearest[1]
        assert "dlg, batch of 1, scored 30.0 dB" in advice.nearest[1]

    def test_a_diverged_training_costs_too_much(self) -> None:
        record = [attacked("a", 1, 8.0), trained("a", 1, 0.9, diverged=True)]
        advice = advised(*BARE, *record)
        assert advice.chosen is None
        assert "diverged" in advice.refused[-1].words

    def test_the_allowed_loss_counts_to_its_end(self) -> None:
        records = (*BARE, *one("a", 1, 8.0, 0.88))
        assert advised(*records, loss=0.02).chosen is not None
        assert advised(*records, loss=0.019).chosen is None

    def test_a_partial_run_says_so(self) -> None:
        run = report.parse([HEADER, *BARE])
        (found,) = report.frontiers(run)
        assert run.partial
        assert "stopped early" in report.recommend(found, partial=run.partial).caveat

    def test_json_has_no_infinities(self) -> None:
        advice = advised(
            attacked("none", None, 250.0), trained("none", None, 0.9), *one("a", 1, 8.0, 0.9)
        )
        told = json.loads(json.dumps(advice.as_json(), allow_nan=False))
        assert told["recommended"]["defense"] == "a"
        assert told["refused"][0]["leakage"] is None
        assert told["refused"][0]["reasons"] == ["leaks"]


ENDS = {"start": 0.0, "middle": 0.5, "end": 1.0}


class TestLabels:
    @pytest.mark.parametrize("seed", range(5))
    def test_they_lie_over_neither_points_nor_each_other(self, seed: int) -> None:
        draw = random.Random(seed)
        marks = [(draw.uniform(450, 600), draw.uniform(240, 300)) for _ in range(12)]
        texts = [f"defense {i}" for i in range(12)]
        placed = place(marks, texts, Box(0, 0, 760, 330))
        boxes = [
            Box(left, p.y - 4 - LINE / 2, left + PITCH * len(text), p.y - 4 + LINE / 2)
            for p, text in zip(placed, texts, strict=True)
            for left in [p.x - PITCH * len(text) * ENDS[p.anchor]]
        ]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            for j, (x, y) in enumerate(marks):
                point = Box(x - MARK, y - MARK, x + MARK, y + MARK)
                assert i == j or not box.overlaps(point)

    def test_a_lone_label_stands_beside_its_mark(self) -> None:
        (placed,) = place([(100.0, 100.0)], ["alone"], Box(0, 0, 760, 330))
        assert placed.lead is None
        assert placed.x == pytest.approx(100 + MARK)


class TestPage:
    def page(self, folder: Path, *records: Record) -> str:
        return report.render([HEADER, *records, END], folder)

    def test_the_figure_marks_what_leaked_what_is_beaten_and_what_is_chosen(
        self, tmp_path: Path
    ) -> None:
        page = self.page(
            tmp_path,
            *BARE,
            *one("a", 1, 30.0, 0.87),
            *one("a", 2, 8.0, 0.89),
            *one("b", 1, 40.0, 0.85),
        )
        (figure,) = re.findall(r'<svg class="sweep frontier".*?</svg>', page, flags=re.DOTALL)
        assert figure.count('<circle class="spot') == 3  # leaked
        assert figure.count('<path class="spot') == 1  # held
        assert figure.count(" hollow") == 2
        assert figure.count('class="ring"') == figure.count('class="halo"') == 1
        assert figure.count('<polyline class="trajectory hue0"') == 1  # a, joined; b is alone
        for label in ("no defense", "a 1", "a 2", "b 1", "blind control"):
            assert f">{label}</text>" in figure
        assert "Use a, amount = 2" in page
        assert page.count('<tr class="chosen">') == 1

    def test_without_utility_there_is_no_frontier(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, attacked("none", None, 60.0), attacked("a", 1, 8.0))
        assert 'id="frontier"' not in page
        assert 'href="#frontier"' not in page

    def test_claims_stand_in_the_panel(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, attacked("none", None, 60.0), attacked("a", 1, 8.0))
        assert "<dt>Hides</dt><dd>what a hides</dd>" in page
        assert "<dd>looks &lt;twice&gt;</dd>" in page

    def test_a_chain_claims_what_each_part_does(self, tmp_path: Path) -> None:
        both = defense("a + b", claims=(*own("a").claims, *own("b").claims))
        chain = attacked("a + b", None, 8.0, defense=both)
        page = self.page(tmp_path, attacked("none", None, 60.0), chain)
        assert "<dd>what a hides</dd>" in page
        assert "<dd>what b hides</dd>" in page

    def test_epsilon_or_why_there_is_none(self, tmp_path: Path) -> None:
        told = EPSILON | {"value": 3.21, "note": "as if <drawn>"}
        none = EPSILON | {"value": None, "note": "no epsilon: no opacus"}
        page = self.page(
            tmp_path,
            *BARE,
            *one("a", 1, 30.0, 0.87, epsilon=told),
            *one("a", 2, 8.0, 0.89, epsilon=none),
        )
        assert ">3.21</span>" in page
        assert "as if &lt;drawn&gt;" in page
        assert "Differential privacy: no epsilon: no opacus." in page

    def test_tables_are_in_shares_of_columns(self, tmp_path: Path) -> None:
        records = [
            attacked(
                name,
                strength,
                None,
                control=0.1,
                data=data("table", label_names=("one",)),
                scores={"columns_read": (fraction,)},
            )
            for name, strength, fraction in (("none", None, 0.9), ("a", 1, 0.1))
        ]
        page = self.page(tmp_path, *records, trained("none", None, 0.9), trained("a", 1, 0.89))
        assert "leakage above blind control, columns read" in page
        assert "dlg, batch of 1, scored 10% (blind control 10%)" in page
