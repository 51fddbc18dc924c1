"""Utility in an audit: its trainings, their records, their estimated time, and refused options."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import mlp

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.audit import Source, plan, plan_from
from leakgauge.core import Effect, PrivacyBound, Protected
from leakgauge.defenses.base import Undefended
from leakgauge.records import Epsilon, read

DOMAIN = lg.ImageDomain(1, 8, 8)


def noise(count: int = 40, *, seed: int = 0, size: int = 8, classes: int = 4) -> lg.Dataset:
    """Return random images that grow brighter with their label. A model learns them quickly."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    inputs = torch.rand((count, 1, size, size), generator=generator) / 4
    inputs = inputs + (targets / (1.5 * classes))[:, None, None, None]
    return lg.Dataset("noise", inputs, targets, lg.ImageDomain(1, size, size), classes)


def case(**changes: Any) -> lg.Case:
    settings: dict[str, Any] = {
        "name": "small",
        "data": noise(),
        "model": mlp(),
        "attacks": [attacks.LinearLayer()],
        "defenses": [None, defenses.TopK(sparsity=0.9)],
        "utility": lg.Utility(clients=2, rounds=3, server_lr=0.5),
    }
    return lg.Case(**(settings | changes))


def on_disk(folder: Path) -> list[Any]:
    """Return the records that a run wrote to its folder."""
    return list(read(folder / "records.jsonl"))


class TestRecords:
    def test_a_training_for_each_defense_and_repeat(self, tmp_path: Path) -> None:
        utility = lg.Utility(clients=2, rounds=3, repeats=2)
        run = lg.audit(case(utility=utility), out=tmp_path / "run", seed=5)
        records = on_disk(tmp_path / "run")
        assert records == run.records
        kinds = [record.type for record in records]
        assert kinds == ["header", *["cell"] * 2, *["training"] * 4, "end"]
        assert [(r.repeat, r.defense.name) for r in run.trainings] == [
            (0, "none"),
            (0, "top_k"),
            (1, "none"),
            (1, "top_k"),
        ]
        bare, sparse, *_ = run.trainings
        assert bare.federation.model_dump() == {
            "clients": 2,
            "rounds": 3,
            "alpha": 0.5,
            "examples": None,
            "server_lr": 1.0,
        }
        assert len(bare.accuracy) == 4
        assert len(bare.sent_bytes) == len(bare.round_seconds) == 3
        assert sum(bare.sizes) == bare.trained_on.count == 32
        assert bare.tested_on.count == 8
        assert sparse.sizes == bare.sizes != run.trainings[2].sizes
        assert sparse.sent_bytes[0] < bare.sent_bytes[0] / 4
        assert bare.seed == 5
        assert (records[-1].trainings_completed, records[-1].trainings_planned) == (4, 4)
        assert records[-1].interrupted is False
        assert records[0].trainings_planned == 4

    def test_none_is_trained_though_it_is_not_attacked_and_nothing_twice(self) -> None:
        same = defenses.TopK(sparsity=0.5)
        run = lg.audit(case(defenses=[same, defenses.TopK(sparsity=0.5)]))
        assert [record.defense.name for record in run.trainings] == ["none", "top_k"]

    def test_it_learns(self) -> None:
        utility = lg.Utility(clients=2, rounds=60, alpha=10.0, server_lr=0.5)
        run = lg.audit(case(defenses=[None], utility=utility))
        accuracy = run.trainings[0].accuracy
        assert accuracy[-1] > accuracy[0] + 0.3

    def test_the_case_s_own_training_is_used(self) -> None:
        local = lg.FedAvg(epochs=2, minibatch=4, learning_rate=0.1, shuffle=True)
        run = lg.audit(case(training=local, attacks=[attacks.DLG(steps=1)], defenses=[None]))
        assert run.trainings[0].protocol.name == "fedavg"

    def test_named_data_takes_the_place_of_the_case_s_own(self) -> None:
        utility = lg.Utility(clients=2, rounds=1, train=noise(30, seed=1), test=noise(12, seed=2))
        run = lg.audit(case(utility=utility))
        (first, *_) = run.trainings
        assert (first.trained_on.name, first.trained_on.count) == ("noise", 30)
        assert (first.tested_on.name, first.tested_on.count) == ("noise", 12)

    def test_the_test_set_is_held_out_of_training(self) -> None:
        train, test = lg.Utility().split(noise(), lg.Seeds(0))
        joined = torch.cat([train.inputs, test.inputs]).flatten(1)
        assert len(torch.unique(joined, dim=0)) == len(joined) == 40
        assert len(test) == 8

    def test_a_run_that_diverges_says_so_and_is_kept(self) -> None:
        utility = lg.Utility(clients=2, rounds=30, server_lr=1e30)
        run = lg.audit(case(defenses=[None], utility=utility))
        assert run.trainings[0].diverged is True
        assert len(run.trainings[0].accuracy) < 31


class TestClaims:
    def test_of_a_defense_and_of_each_part_of_a_chain(self) -> None:
        parts = (defenses.Clipping(norm=2.0), defenses.GaussianNoise(std=1e-3))
        chain = defenses.Chain(defenses=parts)
        run = lg.audit(case(defenses=[None, parts[1], chain], utility=None))
        bare, noisy, both = (cell.defense for cell in run.cells)
        assert bare.claims == ()
        assert noisy.claims[0].hides == defenses.GaussianNoise.claim.hides
        assert [claim.defense for claim in both.claims] == ["clipping", "gaussian_noise"]
        assert both.claims[1:] == noisy.claims

    def test_a_defense_that_claims_nothing(self) -> None:
        class Silent(Undefended):
            claim = None  # type: ignore[assignment]

        assert lg.audit(case(defenses=[Silent()])).cells[0].defense.claims == ()


@dataclass(frozen=True, kw_only=True)
class Told(Undefended):
    """A defense that states an epsilon: `bound` times the number of steps times the sample rate."""

    bound: float = 1.0
    protects: Protected = "example"

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (PrivacyBound(protects=self.protects, epsilon=self.epsilon),)

    def epsilon(self, *, steps: int, sample_rate: float, delta: float) -> float:
        return self.bound * steps * sample_rate


class TestEpsilon:
    def of(self, defense: lg.Defense, **changes: Any) -> Epsilon:
        """Train under a defense, and return the epsilon of its record."""
        utility = lg.Utility(clients=2, rounds=3, examples=5, **changes)
        run = lg.audit(case(defenses=[defense], utility=utility))
        assert run.trainings[0].epsilon is None  # The training without a defense has no epsilon.
        found = run.trainings[1].epsilon
        assert found is not None
        sizes = run.trainings[1].sizes
        assert found.sample_rate == pytest.approx(min(5, min(sizes)) / min(sizes))
        return found

    def test_is_that_of_the_client_in_most_danger(self) -> None:
        told = self.of(Told())
        assert told.value == pytest.approx(3 * told.sample_rate)
        assert (told.steps, told.delta) == (3, 1e-5)

    def test_a_client_takes_part_in_every_round(self) -> None:
        run = lg.audit(
            case(defenses=[Told(protects="client")], utility=lg.Utility(clients=2, rounds=3))
        )
        told = run.trainings[1].epsilon
        assert (told.value, told.sample_rate) == (3.0, 1.0)
        assert "client" in told.note

    def test_a_bound_that_is_none_is_null(self) -> None:
        told = self.of(Told(bound=math.inf))
        assert told.value is None
        assert "no bound" in told.note

    def test_mixtures_have_none(self) -> None:
        told = self.of(defenses.Chain(defenses=(defenses.Mixup(), Told())))
        assert told.value is None
        assert "mixtures" in told.note

    def test_without_opacus_a_line_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
        told = self.of(defenses.DPSGD())
        assert told.value is None
        assert "pip install 'leakgauge[dp]'" in told.note
        assert "\n" not in told.note

    def test_with_opacus_it_falls_with_noise(self) -> None:
        pytest.importorskip("opacus", reason="the accountant is Opacus'")
        low, high = (self.of(defenses.DPSGD(noise_multiplier=m)).value for m in (4.0, 1.0))
        assert 0 < low < high


SPEC = """
data = "their_bright_data:data"
model = {name = "mlp", width = 16}
attacks = ["linear_layer"]
defenses = ["none", {name = "gaussian_noise", std = [1e-3, 1e-1]}]
utility = {clients = 2, rounds = 4, repeats = 2}
"""
BRIGHT = """
import torch


def data():
    targets = torch.arange(24) % 3
    generator = torch.Generator().manual_seed(0)
    return torch.rand((24, 1, 8, 8), generator=generator) / 2 + targets[:, None, None, None] / 6, targets
"""


class TestPlan:
    def test_trainings_are_foretold_and_counted(self) -> None:
        short, long = (
            plan([case(utility=lg.Utility(clients=2, rounds=rounds))]) for rounds in (2, 400)
        )
        assert len(short.seconds) == len(short.jobs) == 4
        assert len(short.trainings) == len(short.cells) == 2
        assert long.total > 10 * sum(short.seconds[2:])
        told: list[tuple[float, int]] = []
        lg.audit(case(), watch=lambda fraction, done: told.append((fraction, done)))
        assert told[-1] == (pytest.approx(1), 4)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"utility": lg.Utility(train=noise(size=9))},
                ("utility.train", "like the case's data"),
            ),
            ({"utility": lg.Utility(test=noise(classes=3))}, ("utility.test", "3 classes")),
            ({"utility": lg.Utility(clients=40)}, ("at least 41", "found 40")),
            (
                {"utility": lg.Utility(clients=30, alpha=0.01)},
                ("30 clients", "larger alpha"),
            ),
            (
                {"defenses": [defenses.DPSGD()], "training": lg.FedAvg()},
                ("DPSGD", "one gradient"),
            ),
        ],
    )
    def test_mistakes_are_told_before_any_compute(
        self, tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        with pytest.raises(lg.UserError) as caught:
            lg.audit(case(**changes), out=tmp_path / "run")
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("utility = {round = 3}", ("utility.round", "did you mean 'rounds'?")),
            ("utility = {rounds = 0}", ("utility.rounds", "greater than or equal to 1")),
            ("utility = {alpha = 0}", ("utility.alpha", "greater than 0")),
            ("utility = {test = 'digit'}", ("utility.test", "did you mean 'digits'?")),
            ("utility = 3", ("utility", "dictionary")),
            ("utility = {test = 'diabetes'}", ("utility.test", "like the case's data")),
        ],
    )
    def test_mistakes_in_a_specification(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        line: str,
        words: tuple[str, ...],
    ) -> None:
        (tmp_path / "their_bright_data.py").write_text(BRIGHT, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        text = "\n".join([*(x for x in SPEC.splitlines() if "utility" not in x), line])
        with pytest.raises(lg.UserError) as caught:
            plan_from(Source(text))
        for word in words:
            assert word in str(caught.value)


def test_ctrl_c_in_a_training_keeps_what_is_finished(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Interrupting(Undefended):
        """Raise KeyboardInterrupt in the second round of the second training."""

        rounds: Any = field(default=None, repr=False)

        def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
            self.rounds.append(1)
            # Before: 2 updates for the cell, 1 for the estimate of time, and 2 clients in the first round.
            if len(self.rounds) > 2 + 1 + 2:
                raise KeyboardInterrupt
            return update

    run = lg.audit(case(defenses=[None, Interrupting([])]), out=tmp_path / "run")
    assert run.interrupted
    assert len(run.trainings) == 1
    *_, last, end = on_disk(tmp_path / "run")
    assert last.type == "training"
    assert end.interrupted is True
    assert (end.completed, end.planned) == (2, 2)
    assert (end.trainings_completed, end.trainings_planned) == (1, 2)
    page = lg.write_report(tmp_path / "run").read_text("utf-8")
    assert "This report is partial" in page
    assert "1 of 2 trainings" in page
