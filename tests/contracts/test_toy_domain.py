"""A user's own kind of data, from the specification to the report, without a change of LeakGauge.

`toy_domain` holds everything that a user of this data writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_domain import (
    CLASSES,
    END,
    LENGTH,
    LETTERS,
    Letters,
    Lookup,
    Network,
    RelaxedNetwork,
    RelaxedWords,
    Words,
    exact_matches,
    words,
)

import leakgauge as lg
from leakgauge.core import SearchSpace, space_of
from leakgauge.data import dataset
from leakgauge.modalities import modality_of

SPECIFICATION = """
seed = 0

[[cases]]
name = "Words"
data = "toy_domain:words"
model = "toy_domain:network"
repeats = 2
attacks = ["toy_domain:Lookup", "auto", "dlg", "deep_image_prior"]
defenses = ["none", {name = "gaussian_noise", std = 0.1}]
"""


@dataclass(frozen=True)
class Audited:
    """The folder of a finished audit, and the text that the command printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "words.toml").write_text(SPECIFICATION)
    command = [sys.executable, "-m", "leakgauge", "audit", str(folder / "words.toml")]
    done = subprocess.run(
        [*command, "--out", str(folder / "run"), "--workers", "1"],
        # The specification names a module of this folder.
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Audited(folder / "run", done.stdout)


@pytest.fixture(scope="module")
def run(audited: Audited) -> Path:
    return audited.folder


@pytest.fixture(scope="module")
def cells(run: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (run / "records.jsonl").read_text("utf-8").splitlines())
    return [record for record in records if record["type"] == "cell"]


def of(cells: list[dict[str, Any]], attack: str, *, defended: bool) -> list[dict[str, Any]]:
    return [
        cell
        for cell in cells
        if cell["attack"]["name"] == attack and (cell["defense"]["name"] != "none") is defended
    ]


class TestItsOwnAttack:
    def test_it_reads_whole_words(self, cells: list[dict[str, Any]]) -> None:
        found = of(cells, "lookup", defended=False)
        assert len(found) == 2
        for cell in found:
            assert cell["status"] == "converged"
            assert cell["scores"]["exact_matches"] == [1.0]
            assert cell["rows"]["reconstruction"] == cell["rows"]["original"]
            assert cell["control"]["scores"]["exact_matches"][0] < 0.5

    def test_a_verdict_follows_its_own_rule(self, cells: list[dict[str, Any]]) -> None:
        for cell in of(cells, "lookup", defended=False):
            assert cell["verdict"]["rule"] == "word above control"
            assert cell["verdict"]["leaks"] is True

    def test_a_wrong_match_is_measured_again(self, cells: list[dict[str, Any]]) -> None:
        for cell in of(cells, "lookup", defended=True):
            assert cell["status"] == "unconverged"

    def test_rows_are_valid_examples(self, cells: list[dict[str, Any]]) -> None:
        for cell in of(cells, "lookup", defended=True):
            for word in cell["rows"]["reconstruction"]:
                assert all(value in range(END + 1) for value in word)


@pytest.mark.parametrize("attack", ["auto", "dlg", "deep_image_prior"])
def test_attacks_that_follow_derivatives_refuse_it_in_one_line(
    cells: list[dict[str, Any]], attack: str
) -> None:
    found = of(cells, attack, defended=False)
    assert len(found) == 2
    for cell in found:
        assert cell["status"] == "inapplicable"
        assert "the values of a word are discrete" in cell["message"]
        assert "\n" not in cell["message"]


class TestWhatAReaderSees:
    def test_a_record_carries_headline_and_layout(self, cells: list[dict[str, Any]]) -> None:
        data = cells[0]["data"]
        assert data["kind"] == "word"
        assert data["layout"] == "rows"
        assert data["headline"]["metric"] == "exact_matches"
        assert [column["name"] for column in data["columns"]][:2] == ["letter 1", "letter 2"]

    def test_the_header_holds_its_rule(self, run: Path) -> None:
        header = json.loads((run / "records.jsonl").read_text("utf-8").splitlines()[0])
        assert "word above control" in [rule["name"] for rule in header["rules"]]

    def test_the_page_speaks_of_it(self, run: Path) -> None:
        page = (run / "report.html").read_text("utf-8")
        assert "Private data leaked: in 2 of 2 undefended audits" in page
        assert "100% of a word&#39;s letters read" in page
        assert "A word counts as leaked" in page
        assert "letters read (median)" in page
        assert "letter 6" in page

    def test_the_page_needs_its_records_alone(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "records.jsonl").write_bytes((run / "records.jsonl").read_bytes())
        assert lg.write_report(tmp_path).read_text("utf-8") == (run / "report.html").read_text(
            "utf-8"
        )

    def test_the_terminal_table_has_its_heading(self, audited: Audited) -> None:
        assert "letters" in audited.printed
        assert "100%" in audited.printed


class TestTheSpace:
    def test_it_keeps_the_protocol(self) -> None:
        space = space_of(Words())
        assert isinstance(space, SearchSpace)
        assert isinstance(Words(), lg.Domain)
        assert isinstance(modality_of(Words()), Letters)
        assert not space.differentiable

    def test_rounding_ends_a_word_once(self) -> None:
        relaxed = torch.rand((50, LENGTH, LETTERS + 1), generator=torch.Generator().manual_seed(0))
        relaxed[:, 2, END] = 2
        found = space_of(Words()).round(relaxed)
        assert bool((found[:, 2:] == END).all())

    def test_draws_are_words_of_every_length(self) -> None:
        space = space_of(Words())
        drawn = space.sample(200, torch.Generator().manual_seed(0))
        assert torch.equal(space.round(space.relax(drawn)), drawn)
        assert set((drawn != END).sum(1).tolist()) == set(range(1, LENGTH + 1))

    def test_a_data_set_of_other_values_is_refused(self) -> None:
        inputs = words().inputs.clone()
        inputs[3, 0] = END
        with pytest.raises(lg.DataError, match="the first is example 3"):
            lg.Dataset("words", inputs, words().targets, Words(), CLASSES)
        with pytest.raises(lg.DataError, match="expected int64 inputs"):
            lg.Dataset("words", inputs.float(), words().targets, Words(), CLASSES)

    def test_values_of_no_letter_are_refused_in_one_line(self) -> None:
        inputs = words().inputs.clone()
        inputs[0, 0] = END + 1
        with pytest.raises(lg.DataError, match="maps to its search space") as caught:
            lg.Dataset("words", inputs, words().targets, Words(), CLASSES)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("examples", [1, 2, 5])
    def test_relaxed_variables_are_checked_in_parts(
        self, monkeypatch: pytest.MonkeyPatch, examples: int
    ) -> None:
        """One-hot rows of a large vocabulary would not fit into memory at once."""
        monkeypatch.setattr(dataset, "CHUNK", examples * LENGTH * (LETTERS + 1))
        inputs = words().inputs.clone()
        inputs[3, 0] = inputs[6, 0] = END
        with pytest.raises(lg.DataError, match="2 that are not, the first is example 3"):
            lg.Dataset("words", inputs, words().targets, Words(), CLASSES)

    @pytest.mark.parametrize(
        "defense", [lg.defenses.Mixup(), lg.defenses.Soteria(), lg.defenses.DCS2()], ids=repr
    )
    def test_a_defense_between_examples_refuses_integers(self, defense: lg.Defense) -> None:
        data = words()
        client = lg.Client(
            model=Network(),
            loss=torch.nn.functional.cross_entropy,
            domain=data.domain,
            classes=CLASSES,
            defense=defense,
        )
        batch = lg.Batch(data.inputs[:2], data.targets[:2])
        with pytest.raises(lg.DataError, match="examples of real numbers"):
            lg.Server().observe(client, batch, seeds=lg.Seeds(0))

    def test_its_metric_counts_places(self) -> None:
        data, space = words(), space_of(Words())
        one, other = space.relax(data.inputs[:1]), space.relax(data.inputs[1:2])
        assert exact_matches(one, one).tolist() == [1.0]
        # The words apple and bread have only the END after their last letter in common.
        assert exact_matches(one, other).tolist() == [pytest.approx(1 / 6)]


class TestRelaxedWords:
    """The network also takes rows of weights, so that attacks on real values can search for words."""

    def cell(self, attack: lg.Attack) -> Any:
        data = replace(words(), domain=RelaxedWords())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = RelaxedNetwork()
        (cell,) = lg.audit(lg.Case(name="words", data=data, model=model, attacks=[attack])).cells
        return cell

    def test_a_descent_returns_words(self) -> None:
        cell = self.cell(lg.attacks.BalancedDLG(steps=30))
        assert all(value in range(END + 1) for value in cell.rows.reconstruction[0])
        assert cell.scores["exact_matches"][0] > cell.control.scores["exact_matches"][0]

    def test_a_match_is_that_of_the_word_and_not_of_the_weights(self) -> None:
        cell = self.cell(lg.attacks.BalancedDLG(steps=30))
        assert "the reconstruction was rounded to the nearest valid examples" in cell.notes
        assert cell.scores["exact_matches"][0] < 1
        assert cell.residual > 0.1
        assert cell.status == "unconverged"
        assert "before rounding to valid examples: " in cell.message

    def test_an_own_attack_joins_those_that_are_tried(self) -> None:
        attacks = (Lookup(), *lg.attacks.Auto().attacks)
        cell = self.cell(lg.attacks.Auto(attacks=attacks))
        assert cell.scores["exact_matches"] == (1.0,)
        assert cell.status == "converged"
        assert "chosen by residual: Lookup()" in cell.notes


class TestATableWithIntegerColumns:
    """Attacks that search real values run on a table with real and integer columns."""

    def patients(self) -> lg.Dataset:
        generator = torch.Generator().manual_seed(0)
        domain = lg.TableDomain(
            (
                lg.Column("age", 18, 100, "years", 0, integer=True),
                lg.Column("glucose", 40, 300, "mg/dl"),
                lg.Column("ward", 0, 7, decimals=0, integer=True),
                lg.Column("pressure", 40, 180, "mmHg"),
            )
        )
        rows = space_of(domain).sample(40, generator)
        return lg.Dataset("patients", rows, torch.arange(40) % 3, domain, 3)

    def cells(self, attacks: list[lg.Attack], *, noise: float = 0.0) -> Any:
        data = self.patients()
        model = lg.models.build(lg.models.mlp, data.domain, 3, width=16, depth=2)
        defense = lg.defenses.GaussianNoise(std=noise) if noise else None
        case = lg.Case(name="ward", data=data, model=model, attacks=attacks, defenses=[defense])
        return lg.audit(case).cells

    def test_closed_forms_and_descents_read_whole_numbers(self) -> None:
        for cell in self.cells([lg.attacks.Auto(), lg.attacks.BalancedDLG(steps=30)]):
            (guess,), (truth,) = cell.rows.reconstruction, cell.rows.original
            assert [guess[0], guess[2]] == [truth[0], truth[2]]
            assert cell.scores["columns_read"] == (1.0,)

    def test_a_noisy_guess_is_a_valid_row_all_the_same(self) -> None:
        (cell,) = self.cells([lg.attacks.LinearLayer()], noise=1e-3)
        for side in (cell.rows.reconstruction, cell.rows.control):
            assert all(float(row[0]).is_integer() and 18 <= row[0] <= 100 for row in side)
            assert all(float(row[2]).is_integer() and 0 <= row[2] <= 7 for row in side)
        # Real columns are not rounded.
        assert not float(cell.rows.reconstruction[0][1]).is_integer()
