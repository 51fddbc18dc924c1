"""Audits: complete records, a control for each cell, equal bits for equal seeds, and clean ends of a run."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from conftest import mlp, sigmoid_cnn
from PIL import Image
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.audit import Source, execute, in_order, plan, plan_from, without_times
from leakgauge.audit.signals import unheard_by_children
from leakgauge.core import Snapshot
from leakgauge.records import SCHEMA_VERSION, read

DOMAIN = lg.ImageDomain(1, 8, 8)


def noise(count: int = 12, *, classes: int = 4) -> lg.Dataset:
    """Return uniform random images. No two of them are equal."""
    generator = torch.Generator().manual_seed(0)
    return lg.Dataset(
        "noise",
        torch.rand((count, 1, 8, 8), generator=generator),
        torch.arange(count) % classes,
        DOMAIN,
        classes,
        tuple(f"kind {i}" for i in range(classes)),
        "CC0",
    )


def patients(count: int = 6) -> lg.Dataset:
    domain = lg.TableDomain(
        (lg.Column("age", 18, 100, "years", 0), lg.Column("pressure", 40, 180, "mm Hg", 1))
    )
    unit = torch.rand((count, 2), generator=torch.Generator().manual_seed(1))
    return lg.Dataset("patients", domain.from_unit(unit), torch.arange(count) % 2, domain, 2)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An attack on images or tables. All entries of its reconstruction are `value`. It states the given residual."""

    value: float = 0.5
    objective: float = 1.0
    residual: float | None = 0.5
    needs: frozenset[str] = frozenset({"batch_size"})
    on_call: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def requires(self) -> frozenset[str]:
        return self.needs

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
    ) -> lg.Reconstruction:
        self.on_call()
        batch = observation.batch_size
        inputs = torch.full((batch, *observation.domain.shape), self.value)
        return lg.Reconstruction(
            inputs=inputs,
            targets=torch.zeros(batch, dtype=torch.long),
            found=torch.ones(batch, dtype=torch.bool),
            status=lg.Status.UNCONVERGED,
            objectives=(self.objective,),
            residual=self.residual,
            trajectory=(Snapshot(0, self.objective, inputs),),
        )


def images_case(**changes: Any) -> lg.Case:
    settings: dict[str, Any] = {
        "name": "small",
        "data": noise(),
        "model": mlp(),
        "attacks": [attacks.LinearLayer()],
    }
    return lg.Case(**(settings | changes))


def strict(folder: Path) -> list[Any]:
    """Return the records on disk. Fail if a line is not strict JSON, which has no NaN and no Infinity."""

    def refuse(token: str) -> NoReturn:
        raise AssertionError(f"{token} is not JSON")

    for line in (folder / "records.jsonl").read_text("utf-8").splitlines():
        json.loads(line, parse_constant=refuse)
    return list(read(folder / "records.jsonl"))


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


class TestRecords:
    def test_a_header_each_cell_in_order_and_an_end(self, tmp_path: Path) -> None:
        case = images_case(
            attacks=[attacks.LinearLayer(), attacks.IDLG(steps=1)],
            defenses=[None, defenses.TopK(sparsity=0.5)],
            batch_sizes=[1, 2],
            repeats=2,
        )
        run = lg.audit([case], out=tmp_path / "run", seed=3)
        records = strict(tmp_path / "run")
        assert records == run.records
        first, *middle, last = records
        assert (first.type, first.seed, first.planned) == ("header", 3, 16)
        assert first.schema_version == SCHEMA_VERSION
        assert first.versions.torch == torch.__version__
        assert [c.type for c in middle] == ["cell"] * 16
        assert [(c.batch_size, c.repeat, c.defense.name, c.attack.name) for c in run.cells] == [
            (b, r, d, a)
            for b in (1, 2)
            for r in (0, 1)
            for d in ("none", "top_k")
            for a in ("linear_layer", "idlg")
        ]
        assert len({c.id for c in run.cells}) == 16
        assert last.type == "end"
        assert (last.completed, last.planned, last.interrupted) == (16, 16, False)
        assert not run.interrupted
        assert run.folder == tmp_path / "run"

    def test_a_chain_is_named_by_its_parts(self) -> None:
        parts = (defenses.Clipping(norm=2.0), defenses.GaussianNoise(std=1e-3))
        case = images_case(defenses=[defenses.Chain(defenses=parts)])
        told = lg.audit(case).cells[0].defense
        assert told.name == "clipping + gaussian_noise"
        assert (told.strength_name, told.strength) == ("norm, std", None)
        assert told.strength_text == told.setting == "2, 0.001"

    def test_a_cell_says_what_was_attacked_with_what_knowing_what(self) -> None:
        case = images_case(examples=[5, 7], batch_sizes=[2], defenses=[defenses.TopK(sparsity=0.5)])
        (cell,) = lg.audit(case, seed=4).cells
        assert cell.data.name == "noise"
        assert cell.data.licence == "CC0"
        assert cell.data.examples == (5, 7)
        assert cell.data.labels == (1, 3)
        assert cell.data.label_names == ("kind 1", "kind 3")
        assert cell.model.parameters == sum(p.numel() for p in mlp().parameters())
        assert cell.protocol.model_dump() == {
            "name": "fedsgd",
            "repr": "FedSGD()",
            "kind": "gradient",
            "local_epochs": 1,
            "local_steps": 1,
        }
        assert cell.defense.model_dump() == {
            "name": "top_k",
            "repr": "TopK(sparsity=0.5)",
            "strength_name": "sparsity",
            "strength": 0.5,
            "strength_text": "0.5",
            "claims": ({"defense": "top_k", **asdict(defenses.TopK.claim)},),
        }
        assert cell.attack.model_dump() == {"name": "linear_layer", "repr": "LinearLayer()"}
        assert cell.threat.grants == ("batch_size", "defense", "hyperparameters")
        assert set(cell.threat.always) == {"model", "protocol", "update"}
        assert cell.seed == 4

    def test_scores_are_one_value_for_each_example(self) -> None:
        (cell,) = lg.audit(images_case(batch_sizes=[3])).cells
        assert set(cell.scores) == {"mse", "psnr", "ssim", "fft2d", "iip_pixels", "label"}
        for scores in (cell.scores, cell.control.scores):
            assert all(len(values) == 3 for values in scores.values())
        assert min(cell.scores["psnr"]) > 60
        assert cell.scores["label"] == (1, 1, 1)
        assert cell.found == (True, True, True)
        assert cell.status == "certified"
        assert cell.cost.evaluations > 0
        assert cell.cost.seconds > 0

    def test_the_control_is_another_reconstruction(self, tmp_path: Path) -> None:
        (cell,) = lg.audit(images_case(), out=tmp_path / "run").cells
        assert cell.control.scores["psnr"][0] < cell.scores["psnr"][0] - 20
        assert "other examples" in cell.control.kind
        images = cell.images
        files = {side: (tmp_path / "run" / names[0]).read_bytes() for side, names in images}
        assert files["original"] == files["reconstruction"]
        assert files["control"] != files["original"]

    def test_a_data_set_with_too_few_others_has_a_random_control(self) -> None:
        (cell,) = lg.audit(images_case(data=noise(3), batch_sizes=[2])).cells
        assert "uniform random" in cell.control.kind
        assert max(cell.control.scores["psnr"]) < min(cell.scores["psnr"])

    @pytest.mark.parametrize("threat", [lg.Server(labels=True), lg.Server(label_counts=True)])
    def test_granted_labels_are_not_scored(self, threat: lg.Server) -> None:
        (cell,) = lg.audit(images_case(threat=threat)).cells
        assert "label" not in cell.scores
        assert "label" not in cell.control.scores
        assert cell.scores["psnr"][0] > 60

    def test_an_attack_that_cannot_run_is_recorded_with_its_reason(self, tmp_path: Path) -> None:
        case = images_case(attacks=[attacks.IDLG(steps=1)], batch_sizes=[1, 2])
        able, unable = lg.audit(case, out=tmp_path / "run").cells
        assert unable.status == "inapplicable"
        assert "batch 2 > 1" in unable.message
        assert unable.control is unable.images is None
        assert unable.scores == {}
        assert unable.verdict.leaks is None
        assert able.verdict.leaks is True
        assert strict(tmp_path / "run")[-1].completed == 2

    def test_pictures_are_of_the_images_size(self, tmp_path: Path) -> None:
        case = images_case(
            model=sigmoid_cnn(),
            attacks=[attacks.InvertingGradients(steps=30)],
            batch_sizes=[2],
            threat=lg.Server(labels=True),
        )
        (cell,) = lg.audit(case, out=tmp_path / "run").cells
        found = pictures(tmp_path / "run")
        named = [name for _, names in cell.images for name in names]
        strip = [moment.image for moment in cell.trajectory]
        assert sorted(found) == sorted(named + strip)
        assert {side: len(names) for side, names in cell.images} == {
            "original": 2,
            "reconstruction": 2,
            "control": 2,
        }
        for name, content in found.items():
            picture = Image.open(io.BytesIO(content))
            assert picture.format == "PNG"
            assert picture.mode == "L"
            assert picture.size == ((16, 8) if name in strip else (8, 8))
        original = Image.open(io.BytesIO(found[cell.images.original[0]]))
        truth = noise().inputs[cell.data.examples[0], 0]
        assert list(original.tobytes()) == (truth * 255).round().int().flatten().tolist()

    def test_the_trajectory_is_a_short_strip_to_the_end(self) -> None:
        case = images_case(model=sigmoid_cnn(), attacks=[attacks.IDLG(steps=40)])
        (cell,) = lg.audit(case).cells
        trajectory = cell.trajectory
        assert 3 <= len(trajectory) <= 8
        spent = [moment.evaluations for moment in trajectory]
        assert spent == sorted(spent)
        assert spent[0] == 0
        assert trajectory[-1].objective == min(cell.objectives)
        assert trajectory[-1].psnr > trajectory[0].psnr

    def test_tables_have_rows_in_their_own_units(self, tmp_path: Path) -> None:
        data = patients()
        case = images_case(data=data, model=mlp(2, classes=2), batch_sizes=[2])
        (cell,) = lg.audit(case, out=tmp_path / "run").cells
        assert cell.images is None
        assert not pictures(tmp_path / "run")
        assert [list(row) for row in cell.rows.original] == data.inputs[
            list(cell.data.examples)
        ].tolist()
        assert len(cell.rows.reconstruction) == len(cell.rows.control) == 2
        assert all(18 <= row[0] <= 100 and 40 <= row[1] <= 180 for row in cell.rows.original)
        assert [c.name for c in cell.data.columns] == ["age", "pressure"]
        assert cell.data.columns[1].unit == "mm Hg"
        assert cell.data.columns[1].tolerance == pytest.approx(1.4)
        assert set(cell.scores) == {"mse", "psnr", "columns_read", "label"}

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("data", ["image", "table"])
    def test_numbers_that_are_none_are_null(self, tmp_path: Path, value: float, data: str) -> None:
        wild = Guess(objective=value, residual=value)
        case = images_case(attacks=[wild])
        if data == "table":
            case = images_case(attacks=[wild], data=patients(), model=mlp(2, classes=2))
        lg.audit(case, out=tmp_path / "run")
        _, cell, end = strict(tmp_path / "run")
        assert cell.objectives == (None,)
        # The audit computes the residual itself and ignores the value that the attack states.
        assert cell.residual is not None
        assert math.isfinite(cell.residual)
        assert cell.trajectory[0].objective is None
        assert math.isfinite(cell.scores["psnr"][0])
        assert end.interrupted is False

    def test_a_guess_is_scored_inside_the_public_range(self) -> None:
        """A picture shows a value of 3 as white, so the value is also scored as white."""
        three, white = (
            lg.audit(images_case(attacks=[Guess(value=v)])).cells[0] for v in (3.0, 1.0)
        )
        assert three.scores == white.scores


@dataclass(frozen=True)
class Draws(Guess):
    """An attack that records the seeds of each of its calls in `given`."""

    given: list[lg.Seeds] = field(default_factory=list, repr=False)

    def guess(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
    ) -> lg.Reconstruction:
        self.given.append(seeds)
        return super().guess(observation, seeds, progress)


def test_the_seeds_of_an_attack_do_not_draw_the_batch() -> None:
    attack = Draws()
    run = lg.audit(images_case(attacks=[attack], batch_sizes=[3]), seed=7)
    case = images_case(batch_sizes=[3])
    assert [run.cells[0].data.examples] != [
        case.indices(3, 0, seeds.child(case.name))[0] for seeds in attack.given[:1]
    ]
    assert all(seeds.root != 7 for seeds in attack.given)
    # An attack must not recognize from its seeds whether it attacks the private batch or the control.
    assert [seeds.path for seeds in attack.given] == ["", ""]


class TestDraws:
    def drawn(self, *, seed: int = 0, **changes: Any) -> list[list[int]]:
        run = lg.audit(images_case(attacks=[Guess()], **changes), seed=seed)
        return [cell.data.examples for cell in run.cells]

    def test_each_repeat_draws_a_batch_of_its_own(self) -> None:
        found = self.drawn(batch_sizes=[3], repeats=4)
        assert len({tuple(batch) for batch in found}) == 4
        assert all(len(set(batch)) == 3 for batch in found)

    def test_defenses_and_attacks_share_their_batch(self) -> None:
        found = self.drawn(batch_sizes=[3], defenses=[None, defenses.TopK()])
        assert found[0] == found[1]

    def test_the_seed_draws(self) -> None:
        assert self.drawn(batch_sizes=[4], seed=0) == self.drawn(batch_sizes=[4], seed=0)
        assert self.drawn(batch_sizes=[4], seed=0) != self.drawn(batch_sizes=[4], seed=1)

    def test_the_control_s_examples_are_others(self) -> None:
        case = images_case(batch_sizes=[4])
        for chosen in (case, images_case(batch_sizes=[4], examples=[8, 1, 3, 2])):
            private, others = chosen.indices(4, 0, lg.Seeds(0))
            assert len(others) == 4
            assert not set(private) & set(others)
        assert case.indices(7, 0, lg.Seeds(0))[1] == []

    def test_the_control_has_no_example_of_the_batch(self) -> None:
        """The control leaves out copies of private images, since a copy would score as well as the original."""
        twice = [0, 1, 2, 3]
        case = images_case(batch_sizes=[4], examples=twice, attacks=[Guess()])
        inputs = case.data.inputs.clone()
        assert len(inputs) >= 10
        inputs[4:6], inputs[0] = inputs[1:3], inputs[3]
        doubled = replace(case, data=replace(case.data, inputs=inputs))
        private, others = doubled.indices(4, 0, lg.Seeds(0))
        assert (private, others) == (twice, [6, 7, 8, 9])
        pool = doubled.pool(4, 0, lg.Seeds(0), 100)
        assert pool == list(range(6, len(inputs)))
        (record,) = lg.audit(doubled, seed=0).cells
        assert record.notes[:2] == (
            "2 of the 4 examples of the batch equal another example of the batch",
            "2 other examples of the data set equal an example of the batch. The control leaves them out",
        )
        assert "other examples of the same data set" in record.control.kind

    def test_a_data_set_of_equal_examples_has_a_control_of_noise(self) -> None:
        case = images_case(batch_sizes=[2], attacks=[Guess()])
        same = case.data.inputs[:1].expand_as(case.data.inputs).clone()
        (record,) = lg.audit(replace(case, data=replace(case.data, inputs=same)), seed=0).cells
        assert "uniform random examples" in record.control.kind
        assert record.notes[0].startswith("2 of the 2 examples of the batch equal another")
        assert record.candidates is None, "no other image is left to point at"

    def test_different_examples_are_not_spoken_of(self) -> None:
        (record,) = lg.audit(images_case(batch_sizes=[3], attacks=[Guess()]), seed=0).cells
        assert not [note for note in record.notes if "equal" in note]

    def test_the_control_bears_the_labels_that_are_granted(self) -> None:
        """The control has the granted labels too. Without them, its scores would be lower than labels alone allow."""
        seen: list[list[int]] = []

        @dataclass(frozen=True)
        class Reader(Guess):
            def guess(
                self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
            ) -> lg.Reconstruction:
                assert observation.knowledge.labels is not None
                seen.append(sorted(observation.knowledge.labels.tolist()))
                return super().guess(observation, seeds, progress)

        lg.audit(images_case(attacks=[Reader()], batch_sizes=[3], threat=lg.Server(labels=True)))
        assert len(seen) == 2
        assert seen[0] == seen[1]

    def test_all_attacks_see_one_update(self) -> None:
        seen: list[torch.Tensor] = []

        @dataclass(frozen=True)
        class Reader(Guess):
            def guess(
                self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
            ) -> lg.Reconstruction:
                seen.append(observation.update.tensors["1.weight"])
                return super().guess(observation, seeds, progress)

        case = images_case(
            attacks=[Reader(), Reader(value=0.1)], defenses=[defenses.GaussianNoise(std=0.1)]
        )
        lg.audit(case)
        first, first_control, second, second_control = seen
        assert torch.equal(first, second)
        assert torch.equal(first_control, second_control)
        assert not torch.equal(first, first_control)


class TestControl:
    def test_it_scores_at_chance(self) -> None:
        """The control's mean PSNR is that of random pairs of images. The reconstruction's PSNR is far higher."""
        run = lg.audit(images_case(repeats=8))
        control = [cell.control.scores["psnr"][0] for cell in run.cells]
        guess = [cell.scores["psnr"][0] for cell in run.cells]
        x = noise().inputs
        pairs = [(i, j) for i in range(len(x)) for j in range(i)]
        random = lg.metrics.psnr(
            x[torch.tensor([i for i, _ in pairs])], x[torch.tensor([j for _, j in pairs])]
        )
        assert sum(control) / 8 == pytest.approx(float(random.mean()), abs=0.6)
        assert min(guess) > max(control) + 30

    def test_a_guess_that_sees_nothing_does_not_stand_above_it(self) -> None:
        (cell,) = lg.audit(images_case(attacks=[Guess(value=0.5)])).cells
        assert cell.scores["psnr"] == cell.control.scores["psnr"]


# For images of 2 x 2 pixels, SSIM needs no scikit-image. Its import would take most of a worker's time.
TINY = """
import torch


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand((40, 1, 2, 2), generator=generator), torch.arange(40) % 3
"""
SMALL = """
data = "their_tiny_data:data"
model = {name = "mlp", width = 12, depth = 2}
training = {batch_size = [1, 2]}
attacks = ["linear_layer", {name = "inverting_gradients", steps = 4, restarts = 2}]
defenses = ["none", {name = "gaussian_noise", std = 0.01}]
utility = {clients = 2, rounds = 2}
"""


def timeless(records: list[Any]) -> list[dict[str, Any]]:
    return [without_times(record) for record in records]


class TestDeterminism:
    def run(self, out: Path, *, seed: int | None = None, workers: int = 1) -> Path:
        execute(plan_from(Source(SMALL, (), seed)), out=out, workers=workers)
        return out

    def test_a_seed_and_two_runs_of_it_and_two_workers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "their_tiny_data.py").write_text(TINY, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        before = torch.random.get_rng_state()
        first = self.run(tmp_path / "first")
        again = self.run(tmp_path / "again", seed=0)
        other = self.run(tmp_path / "other", seed=1)
        wide = self.run(tmp_path / "wide", workers=2)
        assert torch.equal(before, torch.random.get_rng_state())
        expected = timeless(strict(first))
        kinds = [record["type"] for record in expected]
        assert kinds == ["header", *["cell"] * 8, *["training"] * 2, "end"]
        assert timeless(strict(again)) == expected
        assert timeless(in_order(strict(wide))) == expected
        assert pictures(first) == pictures(again) == pictures(wide)
        assert len(pictures(first)) > 30
        for one, two in zip(strict(first)[1:-1], strict(other)[1:-1], strict=True):
            assert one.id == two.id
            drawn = "sizes" if one.type == "training" else "data"
            assert getattr(one, drawn) != getattr(two, drawn)
        assert pictures(first) != pictures(other)

    def test_only_times_are_left_out(self) -> None:
        for record in lg.audit(images_case(attacks=[Guess()])).records:
            told, left = record.model_dump(mode="json"), without_times(record)
            assert set(told) - set(left) <= {"started", "seconds"}
            if record.type == "header":
                assert set(told["machine"]) - set(left["machine"]) == {"workers"}
            if record.type == "cell":
                assert left["cost"] == {"evaluations": record.cost.evaluations}
                del told["cost"], told["control_cost"], left["cost"], left["control_cost"]
                assert left == told

    def test_threads_are_as_they_were(self) -> None:
        before = torch.get_num_threads()
        lg.audit(images_case())
        assert torch.get_num_threads() == before


class TestPlan:
    def test_progress_rises_to_one(self) -> None:
        told: list[tuple[float, int]] = []
        case = images_case(attacks=[attacks.LinearLayer(), attacks.IDLG(steps=2)])
        lg.audit(case, watch=lambda fraction, done: told.append((fraction, done)))
        shares = [fraction for fraction, _ in told]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        assert told[-1][1] == 2

    def test_the_cost_is_foretold_for_each_cell(self) -> None:
        case = images_case(
            attacks=[attacks.IDLG(steps=1), attacks.IDLG(steps=100)], batch_sizes=[1, 2]
        )
        planned = plan([case])
        assert len(planned.seconds) == len(planned.cells) == 4
        assert planned.seconds[1] == pytest.approx(100 * planned.seconds[0])
        # iDLG attacks only batches of one example, so larger batches cost nothing.
        assert planned.seconds[2:] == (0.0, 0.0)
        assert planned.total == sum(planned.seconds) > 0

    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"batch_sizes": [1, 13]}, lg.DataError, ("at most 12", "13")),
            ({"examples": [1], "batch_sizes": [2]}, lg.DataError, ("at most 1", "2")),
            ({"examples": [12]}, lg.DataError, ("from 0 to 11", "12")),
            ({"examples": [-1]}, lg.DataError, ("from 0 to 11", "-1")),
            ({"model": mlp(63)}, lg.ModelError, ("(1, 1, 8, 8)",)),
            ({"model": mlp(classes=2)}, lg.UserError, ()),
            ({"threat": lg.Server(batch_size=False)}, lg.KnowledgeError, ("batch_size = true",)),
            ({"attacks": [Guess(needs=frozenset({"labels"}))]}, lg.KnowledgeError, ("labels",)),
            ({"loss": lambda o, t: o.mean(1)}, lg.ModelError, ("scalar",)),
            (
                {"loss": lambda o, t: (o.argmax(-1) == t).float().mean()},
                lg.ModelError,
                ("loss",),
            ),
        ],
    )
    def test_mistakes_are_told_before_any_compute(
        self, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], words: tuple[str, ...]
    ) -> None:
        with pytest.raises(kind) as caught:
            lg.audit(images_case(**changes), out=tmp_path / "run")
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_every_batch_size_is_checked(self, tmp_path: Path) -> None:
        """BatchNorm in train mode refuses a batch of one example, but accepts a batch of four."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).train()
        case = images_case(model=model, batch_sizes=[1, 4])
        with pytest.raises(lg.ModelError, match="more than 1 value"):
            lg.audit(case, out=tmp_path / "run")

    def test_a_second_case_s_mistake_is_told_before_the_first_runs(self, tmp_path: Path) -> None:
        calls: list[int] = []
        sound = images_case(attacks=[Guess(on_call=lambda: calls.append(1))])
        with pytest.raises(lg.DataError):
            lg.audit([sound, images_case(batch_sizes=[99])], out=tmp_path / "run")
        assert not calls


class TestEndings:
    def interrupted(self, tmp_path: Path, call: int) -> lg.Run:
        """Audit three cells, and interrupt call number `call` of the attack, counted from 1, as Ctrl-C would."""
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt

        return lg.audit(
            images_case(attacks=[Guess(on_call=count)], repeats=3), out=tmp_path / "run"
        )

    # A cell calls its attack twice: on the batch, then on the blind control.
    @pytest.mark.parametrize(("call", "kept"), [(1, 0), (2, 0), (3, 1), (4, 1), (6, 2)])
    def test_ctrl_c_keeps_what_is_finished(self, tmp_path: Path, call: int, kept: int) -> None:
        run = self.interrupted(tmp_path, call)
        assert run.interrupted
        assert len(run.cells) == kept
        first, *cells, end = strict(tmp_path / "run")
        assert first.planned == 3
        assert [c.repeat for c in cells] == list(range(kept))
        assert end.type == "end"
        assert (end.completed, end.planned, end.interrupted) == (kept, 3, True)
        assert len(pictures(tmp_path / "run")) == 4 * kept
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert "This report is partial" in page

    @pytest.mark.parametrize("record", [2, 3])
    def test_ctrl_c_while_a_record_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: int
    ) -> None:
        """Ctrl-C comes after a cell's line is written, before the cell is counted. The count must match the lines."""
        written = 0

        def fsync(_: int) -> None:
            nonlocal written
            written += 1
            if written == record:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(os, "fsync", fsync)
        run = lg.audit(images_case(attacks=[Guess()], repeats=3), out=tmp_path / "run")
        _, *cells, end = strict(tmp_path / "run")
        assert run.interrupted
        assert len(cells) == len(run.cells) == end.completed == record - 1
        assert end.interrupted is True

    def test_an_error_in_an_attack_ends_one_cell(self, tmp_path: Path) -> None:
        class Refused(lg.DataError):
            pass

        calls = 0

        def fail() -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Refused("here", expected="this", found="that", remedy="do so")

        lg.audit(images_case(attacks=[Guess(on_call=fail)], repeats=3), out=tmp_path / "run")
        _, *cells, end = strict(tmp_path / "run")
        assert [cell.status for cell in cells] == ["unconverged", "failed", "unconverged"]
        assert (end.completed, end.failed, end.interrupted) == (3, 1, False)

    def test_an_earlier_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        lg.audit(images_case(), out=tmp_path)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with pytest.raises(lg.OutputError, match="earlier run") as caught:
            lg.audit(images_case(), out=tmp_path, seed=1)
        assert "\n" not in str(caught.value)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

    @pytest.mark.parametrize("path", ["file", "file/inside"])
    def test_a_file_in_the_folder_s_place(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "file").write_text("mine", "utf-8")
        with pytest.raises(lg.OutputError, match="choose another folder with --out") as caught:
            lg.audit(images_case(), out=tmp_path / path)
        assert "\n" not in str(caught.value)
        assert (tmp_path / "file").read_text("utf-8") == "mine"

    def test_a_picture_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "images").write_text("mine", "utf-8")
        with pytest.raises(lg.OutputError) as caught:
            lg.audit(images_case(), out=tmp_path)
        assert "\n" not in str(caught.value)
        assert all(record.type != "cell" for record in strict(tmp_path))

    def test_other_files_of_a_folder_are_no_matter(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", "utf-8")
        lg.audit(images_case(), out=tmp_path)
        assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"
        assert len(strict(tmp_path)) == 3

    def test_without_a_folder_nothing_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = lg.audit(images_case())
        assert run.folder is None
        assert len(run.cells) == 1
        assert not list(tmp_path.iterdir())

    def test_the_client_s_model_is_left_as_it_was(self) -> None:
        model = mlp()
        before = [p.detach().clone() for p in model.parameters()]
        lg.audit(images_case(model=model, defenses=[None, defenses.TopK()]))
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert all(p.grad is None for p in model.parameters())


def test_a_record_names_the_attack_within_an_attack() -> None:
    data = lg.data.digits()
    case = lg.Case(
        name="local",
        data=data,
        model=lg.models.build(lg.models.mlp, data.domain, data.classes or 10, width=8),
        attacks=[lg.attacks.OneGradient(attack=lg.attacks.LinearLayer())],
        training=lg.FedAvg(epochs=2, learning_rate=0.1),
    )
    cell = lg.audit(case).cells[0]
    assert cell.attack.name == "one_gradient (linear_layer)"
    assert cell.protocol.name == "fedavg"
    assert cell.scores["psnr"][0] > 60


@pytest.mark.skipif(sys.platform == "win32", reason="signal masks are POSIX")
def test_a_process_started_uninterrupted_does_not_see_ctrl_c() -> None:
    """The signal is blocked before the first line of the process runs. A handler in the process would come too late."""
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with unheard_by_children():
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert inside.stdout.strip() == "True"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
