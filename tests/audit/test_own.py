"""Audits of a user's own module, loss, batch, files, factories, attack and defense."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.audit import Source, execute, plan_from
from leakgauge.core import Tensors
from leakgauge.records import Cell, read


class Theirs(nn.Module):
    """A user's own module with a buffer. It derives from no class of LeakGauge."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((channels, 1, 1), 0.5))
        self.hidden = nn.Linear(channels * 64, 40)
        self.out = nn.Linear(40, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden((x - self.shift).flatten(1))))  # type: ignore[no-any-return, operator]


def theirs(channels: int = 3, classes: int = 4) -> Theirs:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Theirs(channels, classes)


def hinge(output: Tensor, target: Tensor) -> Tensor:
    """Return a loss other than cross-entropy: the mean squared multi-class margin."""
    right = output.gather(1, target[:, None])
    return (1 - right + output).clamp(min=0).square().mean()


def once(output: Tensor, target: Tensor) -> Tensor:
    """Return a loss that PyTorch can differentiate only once."""
    return nn.functional.multi_margin_loss(output, target, p=2)


def color(count: int = 3) -> lg.Batch:
    generator = torch.Generator().manual_seed(0)
    return lg.Batch(torch.rand((count, 3, 8, 8), generator=generator), torch.arange(count) % 4)


class TestModuleLossAndBatch:
    def observe(self, batch: lg.Batch) -> lg.Observation:
        client = lg.Client(model=theirs(), loss=hinge, domain=lg.ImageDomain(3, 8, 8), classes=4)
        return lg.Server().observe(client, batch, seeds=lg.Seeds(0))

    def test_an_update_is_that_of_plain_torch(self) -> None:
        batch, model = color(), theirs()
        hinge(model(batch.inputs), batch.targets).backward()
        update = self.observe(batch).update.tensors
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(update[name], parameter.grad, atol=1e-7)

    def test_what_a_server_reads_of_it(self) -> None:
        batch = color(1)
        guess = lg.attacks.Auto()(self.observe(batch), seeds=lg.Seeds(0))
        assert guess.status is lg.Status.CERTIFIED
        assert lg.metrics.psnr(batch.inputs, guess.inputs).min() > 60

    def test_gradient_matching_on_it(self) -> None:
        observation = self.observe(color(1))
        attack = lg.attacks.BalancedDLG(steps=2, labels="recovered")
        guess = attack(observation, seeds=lg.Seeds(0))
        assert guess.inputs.shape == (1, 3, 8, 8)
        assert torch.isfinite(guess.inputs).all()

    def test_a_table_of_one_s_own(self) -> None:
        columns = (lg.Column("age", 18, 100, "years", 0), lg.Column("glucose", 40, 300, "mg/dl"))
        domain = lg.TableDomain(columns)
        inputs = torch.tensor([[54.0, 91.0], [33.0, 120.0], [71.0, 200.0]])
        data = lg.Dataset("ward", inputs, torch.tensor([0, 1, 1]), domain, classes=2)
        model = lg.models.build(lg.models.mlp, domain, 2, width=16, depth=2)
        case = lg.Case(name="ward", data=data, model=model, attacks=[lg.attacks.LinearLayer()])
        (cell,) = lg.audit(case).cells
        (row,), (truth,) = cell.rows.reconstruction, cell.rows.original
        assert row == pytest.approx(truth, rel=1e-3)
        assert cell.scores["columns_read"] == (1.0,)


def audit_data(tmp_path: Path, data: str, *settings: str) -> list[Cell]:
    """Return the cells that a small audit of `data` wrote to disk."""
    text = (
        f'data = {data}\nmodel = {{name = "mlp", width = 16, depth = 2}}\nattacks = "linear_layer"'
    )
    execute(plan_from(Source(text, settings)), out=tmp_path / "run")
    return [record for record in read(tmp_path / "run/records.jsonl") if isinstance(record, Cell)]


class TestFiles:
    def pixels(self, count: int, channels: int = 3) -> np.ndarray[Any, Any]:
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)

    def test_a_folder_of_images(self, tmp_path: Path) -> None:
        for i, image in enumerate(self.pixels(6)):
            folder = tmp_path / "scans" / ("benign", "malignant")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
        data = f'{{name = "image_folder", path = "{tmp_path / "scans"}"}}'
        (cell,) = audit_data(tmp_path, data)
        assert cell.data.name == "scans"
        assert cell.data.label_names[0] in ("benign", "malignant")
        assert cell.scores["psnr"][0] > 50
        shown = Image.open(tmp_path / "run" / cell.images.reconstruction[0])
        original = lg.data.image_folder(tmp_path / "scans").inputs[cell.data.examples[0]]
        expected = (original * 255).round().permute(1, 2, 0).int().flatten().tolist()
        assert shown.mode == "RGB"
        assert max(abs(a - b) for a, b in zip(shown.tobytes(), expected, strict=True)) <= 1

    def test_an_archive_of_images(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "mine.npz",
            images=self.pixels(6, 1),
            labels=np.arange(6) % 3,
            classes=np.array(["a", "b", "c"]),
        )
        data = f'{{name = "npz", path = "{tmp_path / "mine.npz"}"}}'
        small, large = audit_data(tmp_path, data, "training.batch_size=[1, 2]")
        assert small.scores["psnr"][0] > 50
        assert len(large.data.label_names) == 2
        assert large.data.name == "mine"

    def test_an_archive_of_a_table(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "ward.npz",
            inputs=np.array([[54.0, 91.0], [33.0, 120.0], [71.0, 200.0]], dtype=np.float32),
            labels=np.array([0, 1, 1]),
            columns=np.array(["age", "glucose"]),
            lows=np.array([18, 40]),
            highs=np.array([100, 300]),
        )
        data = f'{{name = "npz", path = "{tmp_path / "ward.npz"}"}}'
        (cell,) = audit_data(tmp_path, data)
        assert [column.name for column in cell.data.columns] == ["age", "glucose"]
        assert cell.rows.reconstruction[0] == pytest.approx(cell.rows.original[0], rel=1e-3)

    def test_a_path_below_the_data_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "data").mkdir()
        np.savez(tmp_path / "data/mine.npz", images=self.pixels(4, 1), labels=np.arange(4) % 2)
        monkeypatch.setenv("LEAKGAUGE_DATA", str(tmp_path))
        (cell,) = audit_data(tmp_path, '{name = "npz", path = "mine.npz"}')
        assert cell.status == "certified"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A user's own attack. It has no base class, and returns images whose pixels all have one value."""

    value: float = 0.5

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        if observation.batch_size > 2:
            return lg.Inapplicable("it sees one example at a time")
        return lg.Plan(evaluations=0, search=partial(self.guess, observation))

    def guess(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
    ) -> lg.Reconstruction:
        progress(lg.Moment(1.0))
        batch = observation.batch_size
        return lg.Reconstruction(
            inputs=torch.full((batch, *observation.domain.shape), self.value),
            targets=None,
            found=torch.ones(batch, dtype=torch.bool),
            status=lg.Status.UNCONVERGED,
            message="a gray guess",
        )


@dataclass(frozen=True, kw_only=True)
class FirstLayerSilent:
    """A user's own defense without a base class. It multiplies the gradient of the first layer by `fraction`."""

    fraction: float = 0.0

    def on_batch(
        self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds
    ) -> tuple[Tensor, Tensor]:
        return inputs, targets

    def on_model(self, model: nn.Module, *, seeds: lg.Seeds) -> nn.Module:
        return model

    def on_training(self, training: lg.LocalTraining, *, seeds: lg.Seeds) -> lg.LocalTraining:
        return training

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        return lg.Update(self.silence(update.tensors), update.kind)

    def adapt(self, observed: lg.Update) -> Any:
        return self.silence

    def silence(self, tensors: Tensors) -> Tensors:
        return {n: t * (self.fraction if n.startswith("hidden") else 1) for n, t in tensors.items()}


def own_case(**changes: Any) -> lg.Case:
    batch = color(8)
    data = lg.Dataset("mine", batch.inputs, batch.targets, lg.ImageDomain(3, 8, 8), 4)
    settings: dict[str, Any] = {"name": "own", "data": data, "model": theirs(), "loss": hinge}
    return lg.Case(**(settings | {"attacks": [Mean()]} | changes))


class TestLossWithoutASecondDerivative:
    """Local training needs only the first derivative of a loss, and works. Gradient matching needs two, and fails."""

    def test_the_closed_form_needs_none(self) -> None:
        (cell,) = lg.audit(own_case(loss=once, attacks=[lg.attacks.LinearLayer()])).cells
        assert cell.scores["psnr"][0] > 60

    def test_gradient_matching_says_so(self) -> None:
        run = lg.audit(own_case(loss=once, attacks=[lg.attacks.InvertingGradients(steps=2)]))
        (cell,) = run.cells
        assert cell.status == "failed"
        assert "differentiated twice" in cell.message
        assert "\n" not in cell.message


class TestAttack:
    def test_it_satisfies_the_protocol(self) -> None:
        assert isinstance(Mean(), lg.Attack)

    def test_in_an_audit(self, tmp_path: Path) -> None:
        case = own_case(attacks=[Mean(value=0.5), Mean(value=0.9)], batch_sizes=[1, 3])
        run = lg.audit(case, out=tmp_path / "run")
        middle, bright, *unable = run.cells
        assert (middle.attack.name, middle.attack.repr) == ("mean", "Mean(value=0.5)")
        assert middle.message == "a gray guess"
        assert middle.scores["psnr"][0] > bright.scores["psnr"][0]
        assert middle.scores["psnr"] == middle.control.scores["psnr"]
        assert "label" not in middle.scores
        assert {c.message for c in unable} == {"it sees one example at a time"}
        assert "a gray guess" in lg.write_report(tmp_path / "run").read_text("utf-8")

    def test_beside_ours_in_auto(self) -> None:
        observation = lg.Server().observe(
            own_case().client(), own_case().batch([0]), seeds=lg.Seeds(0)
        )
        guess = lg.attacks.Auto(attacks=(Mean(), lg.attacks.LinearLayer()))(
            observation, seeds=lg.Seeds(0)
        )
        assert guess.status is lg.Status.CERTIFIED
        assert any("Mean(value=0.5)" in note or "Mean:" in note for note in guess.notes)


class TestDefense:
    def test_it_satisfies_the_protocol(self) -> None:
        assert isinstance(FirstLayerSilent(), lg.Defense)

    def test_in_an_audit(self, tmp_path: Path) -> None:
        case = own_case(
            attacks=[lg.attacks.LinearLayer()], defenses=[None, FirstLayerSilent()], repeats=2
        )
        run = lg.audit(case, out=tmp_path / "run")
        bare, silent_, *_ = run.cells
        assert silent_.defense.name == "first_layer_silent"
        assert silent_.defense.repr == "FirstLayerSilent(fraction=0.0)"
        assert bare.scores["psnr"][0] > 60
        assert silent_.scores["psnr"][0] < 15
        assert (tmp_path / "run/records.jsonl").read_text("utf-8").count("\n") == 6
        lg.write_report(tmp_path / "run")

    def test_who_knows_it_simulates_it(self) -> None:
        batch = color(1)
        case = own_case(defenses=[FirstLayerSilent(fraction=0.25)])
        observation = lg.Server().observe(
            case.client(FirstLayerSilent(fraction=0.25)), batch, seeds=lg.Seeds(0)
        )
        matching = lg.attacks.InvertingGradients(steps=1).matching()
        guess = matching(observation, seeds=lg.Seeds(0))
        assert guess.residual is not None
        from leakgauge.inversion.simulation.simulator import simulator

        simulated = simulator(observation, create_graph=False)(batch.inputs, batch.targets)
        for name, tensor in observation.update.tensors.items():
            assert torch.allclose(simulated[name], tensor, atol=1e-7)


FACTORIES = """
from tests_own_base import FirstLayerSilent, Mean, hinge, own_case, theirs


def data():
    return own_case().data


def model(domain, classes):
    return theirs(domain.shape[0], classes)
"""


class TestSpecification:
    def test_everything_by_reference(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A specification names the user's own data, model, loss, attack and defense."""
        monkeypatch.setitem(__import__("sys").modules, "tests_own_base", _this())
        (tmp_path / "their_factories.py").write_text(FACTORIES, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        text = """
            data = "their_factories:data"
            model = "their_factories:model"
            loss = "their_factories:hinge"
            attacks = [{name = "their_factories:Mean", value = [0.25, 0.5]}, "linear_layer"]
            defenses = ["none", {name = "their_factories:FirstLayerSilent", fraction = 0.5}]
        """
        run = execute(plan_from(Source(text)), out=tmp_path / "run")
        assert [(c.defense.repr, c.attack.repr) for c in run.cells] == [
            (defense, attack)
            for defense in ("none", "FirstLayerSilent(fraction=0.5)")
            for attack in ("Mean(value=0.25)", "Mean(value=0.5)", "LinearLayer()")
        ]
        assert run.cells[0].data.name == "mine"
        assert run.cells[0].model.name == "their_factories:model"
        assert run.cells[2].scores["psnr"][0] > 60
        lg.write_report(tmp_path / "run")


def _this() -> Any:
    return __import__("sys").modules[__name__]
