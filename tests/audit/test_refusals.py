"""Cases that are sure to fail are refused in one line, before anything runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.audits import case, noise
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.audit import Source, plan, plan_from
from leakgauge.audit.cell import draw, random_targets
from leakgauge.audit.grid import number
from leakgauge.audit.machine import named
from leakgauge.cli import main
from leakgauge.console import rounded
from leakgauge.core import allowance
from leakgauge.core.ranges import check_ranges

SPEC = """
data = "digits"
model = {name = "mlp", width = 4, depth = 2}
attacks = ["linear_layer"]
"""
MANY = list(range(1, 1001))
OLD = "trials"
"""The old name of the option `restarts`."""


def one_line(error: BaseException, *words: str) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 500
    for word in words:
        assert word in str(error)


SPECIFICATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a defense that the protocol forbids": (
        SPEC + 'training = "fedavg"\ndefenses = ["none", "clipping", "dpsgd"]',
        ("DPSGD", "batch of 1", "shares one gradient"),
    ),
    "a layer that is not there": (
        SPEC + 'defenses = [{name = "layer_pruning", named = "typo"}]',
        ("LayerPruning", "'typo'", "linear0, linear1"),
    ),
    "noise that overflows": (
        SPEC + 'defenses = ["none", {name = "gaussian_noise", std = [0.1, 1e300]}]',
        ("GaussianNoise(std=1e+300)", "NaN or infinite"),
    ),
    "a learning rate that overflows": (
        SPEC + 'training = {name = "fedavg", learning_rate = 1e300, epochs = 3}',
        ("NaN or infinite", "learning rate"),
    ),
    "steps of 401 digits": (
        SPEC.replace('"linear_layer"', '{name = "dlg", steps = 1' + "0" * 400 + "}"),
        ("steps", "64 bits"),
    ),
    "repeats of 31 digits": (SPEC + "repeats = 1" + "0" * 30, ("repeats",)),
    "repeats as a real": (SPEC + "repeats = 1e30", ("repeats", "integer")),
    "a width that overflows": (
        SPEC.replace("width = 4", "width = 9223372036854775808"),
        ("width",),
    ),
    "a width that no memory holds": (SPEC.replace("width = 4", "width = 2147483647"), ("width",)),
    "epochs without end": (
        SPEC + 'training = {name = "fedavg", epochs = 1000000, minibatch = 1, batch_size = 2}',
        ("1,000,000 local steps", "2,000,000", "lower epochs"),
    ),
    "repeats without end": (
        SPEC + "repeats = 1000000000",
        ("at most 10,000", "1,000,000,000 repeats", "--max-cells"),
    ),
    "a long sweep": (
        SPEC + f'defenses = [{{name = "gaussian_noise", std = {list(range(1, 20001))}}}]',
        ("cases.0.defenses.0", "20,000 values of std"),
    ),
    "a sweep of sweeps": (
        SPEC.replace(
            '"linear_layer"', f'{{name = "inverting_gradients", steps = {MANY}, restarts = {MANY}}}'
        ),
        ("cases.0.attacks.0", "1,000,000 (1,000 values of steps x 1,000 values of restarts)"),
    ),
    "a chain of sweeps": (
        SPEC
        + f'defenses = [{{name = "chain", defenses = [{{name = "gaussian_noise", std = {MANY}}}, '
        f'{{name = "clipping", norm = {MANY}}}]}}]',
        ("defenses.0.defenses", "1,000,000"),
    ),
    "an attack within an attack": (
        SPEC.replace(
            '"linear_layer"',
            f'{{name = "auto", attacks = [{{name = "dlg", steps = {MANY}, lr = {MANY}}}]}}',
        ),
        ("attacks", "1,000,000"),
    ),
    **{
        f"{old}, an old option of {name}": (
            SPEC.replace('"linear_layer"', f"{{name = '{name}', {old} = 2}}")
            if kind == "attacks"
            else SPEC + f"defenses = [{{name = '{name}', {old} = 0.5}}]",
            (f"{kind}.0.{old}", f"did you mean '{new}'?"),
        )
        for kind, name, old, new in (
            ("attacks", "inverting_gradients", "trials", "restarts"),
            ("attacks", "corrected_surrogate", "share", "fraction"),
            ("defenses", "pixel_dropout", "share", "fraction"),
            ("defenses", "layer_pruning", "share", "fraction"),
            ("defenses", "outpost", "share", "fraction"),
        )
    },
    "an old option inside an attack": (
        SPEC.replace(
            '"linear_layer"',
            f'{{name = "order_invariant", attack = {{name = "inverting_gradients", {OLD} = 2}}}}',
        ),
        ("cases.0.attacks.0", f".{OLD}: expected", "did you mean 'restarts'?"),
    ),
    "an old name that was never an option of the part": (
        SPEC.replace('"linear_layer"', f'{{name = "dlg", {OLD} = 2}}'),
        ("an option among lr, steps, tolerance", "remove it"),
    ),
    "axes that multiply": (
        SPEC.replace('"linear_layer"', f'{{name = "dlg", steps = {MANY}}}')
        + f'defenses = [{{name = "gaussian_noise", std = {MANY}}}]',
        ("1,000,000 (1,000 defenses x 1,000 attacks)",),
    ),
}


@pytest.mark.parametrize(("text", "words"), SPECIFICATIONS.values(), ids=SPECIFICATIONS)
def test_a_specification(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(lg.UserError) as caught:
        plan_from(Source(text))
    one_line(caught.value, *words)


OBJECTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no attack": ({"attacks": []}, ("attacks", "at least one")),
    "no defense": ({"defenses": []}, ("defenses", "at least one")),
    "no batch size": ({"batch_sizes": []}, ("batch_sizes", "at least one")),
    "a negative batch": ({"batch_sizes": [-1]}, ("batch_sizes", "-1")),
    "an empty batch": ({"batch_sizes": [1, 0]}, ("batch_sizes", "0")),
    "half an example": ({"batch_sizes": [1.5]}, ("batch_sizes", "1.5")),
    "a flag": ({"batch_sizes": [True]}, ("batch_sizes", "True")),
    "no repeat": ({"repeats": 0}, ("repeats", "0")),
    "repeats without end": ({"repeats": 10**30}, ("about 1e30 audits", "max_cells")),
    "a class": ({"attacks": [attacks.LinearLayer]}, ("the class LinearLayer",)),
    "a name": ({"attacks": ["dlg"]}, ("'dlg'", "leakgauge.Attack")),
    "a defense's name": ({"defenses": ["none"]}, ("'none'", "leakgauge.Defense")),
    "no steps": ({"attacks": [attacks.IDLG(steps=0)]}, ("IDLG.steps", "at least 1")),
    "no steps within": (
        {"attacks": [attacks.Auto(attacks=(attacks.IDLG(steps=-3),))]},
        ("IDLG.steps", "-3"),
    ),
    "negative noise": (
        {"defenses": [defenses.GaussianNoise(std=-1)]},
        ("GaussianNoise.std", "greater than 0", "-1"),
    ),
    "a share of 2 in a chain": (
        {"defenses": [defenses.Chain(defenses=(defenses.TopK(sparsity=2),))]},
        ("TopK.sparsity", "less than 1"),
    ),
    "trainings without end": (
        {"utility": lg.Utility(clients=2, repeats=10**9)},
        ("2,000,000,000 trainings", "1 case"),
    ),
}


@pytest.mark.parametrize(("changes", "words"), OBJECTS.values(), ids=OBJECTS)
def test_objects(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(lg.UserError) as caught:
        lg.audit(case(**changes), out=tmp_path / "run")
    one_line(caught.value, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "threat",
    [
        "{name = 'aggregator', clients = 1000000000}",
        "{name = 'secure_aggregator', clients = 1000000000}",
        "{name = 'masked_update', clients = 129}",
        "{name = 'several_rounds', rounds = 1000000000}",
        "{name = 'neighbor', nodes = 1000000000}",
        "{name = 'neighbor', degree = 1000000000}",
        "{name = 'neighbor', hops = 1000000000}",
        "{name = 'neighbor', start = 1000000000}",
        "{name = 'neighbor', listening = 1000000000}",
    ],
)
def test_threats_of_any_size(threat: str) -> None:
    with pytest.raises(lg.SpecificationError) as caught:
        plan_from(Source(f"{SPEC}threat = {threat}"))
    one_line(caught.value, "threat.", "less than or equal to")


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        (lg.Aggregator(clients=1024), ("for each of 1024 clients", "batch 1")),
        (lg.Neighbor(degree=4096), ("degree 4096 on 8 nodes",)),
        (lg.Neighbor(nodes=64, listening=65), ("at most 4,096", "4,160")),
    ],
)
def test_threats_larger_than_their_batch_or_network(
    threat: lg.Server, words: tuple[str, ...]
) -> None:
    with pytest.raises(lg.UserError) as caught:
        plan([case(threat=threat)])
    one_line(caught.value, *words)


@pytest.mark.parametrize("threat", [lg.SeveralRounds(rounds=100), lg.Neighbor(listening=100)])
def test_rounds_whose_models_no_memory_holds(
    threat: lg.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: 100_000 * allowance.BYTES_AN_ENTRY)
    with pytest.raises(lg.SpecificationError) as caught:
        plan([case(threat=threat)])
    one_line(caught.value, "at most 100,000 entries in the models of all rounds")


@pytest.mark.parametrize("count", [1, 2, 5, 7, 16])
@pytest.mark.parametrize("clients", [1, 2, 3, 7, 20])
def test_sizes_are_those_of_the_parts(count: int, clients: int) -> None:
    parts = torch.arange(count).tensor_split(clients)
    expected = sorted({len(part) for part in parts if len(part)})
    assert lg.Aggregator(clients=clients).sizes(count) == expected


def test_of_many_examples_that_are_not_there_the_first_is_told() -> None:
    with pytest.raises(lg.DataError) as caught:
        case(data=noise(6), examples=list(range(100_000))).check()
    one_line(caught.value, "examples from 0 to 5", "found 6 and 99,993 more")


def test_an_audit_of_nothing() -> None:
    with pytest.raises(lg.SpecificationError, match="at least one case"):
        lg.audit([])


class TestRanges:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"epochs": 0}, ("FedAvg.epochs", "a whole number of at least 1", "found 0")),
            ({"epochs": 1.5}, ("FedAvg.epochs", "1.5")),
            ({"epochs": True}, ("FedAvg.epochs", "True")),
            ({"minibatch": 0}, ("FedAvg.minibatch",)),
            ({"learning_rate": math.nan}, ("FedAvg.learning_rate", "finite", "nan")),
            ({"learning_rate": math.inf}, ("FedAvg.learning_rate", "inf")),
            ({"learning_rate": "fast"}, ("FedAvg.learning_rate", "'fast'")),
            ({"momentum": -0.1}, ("FedAvg.momentum", "of at least 0")),
            ({"decay": None}, ("FedAvg.decay", "None")),
        ],
    )
    def test_a_protocol_made_in_python(
        self, options: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        with pytest.raises(lg.SpecificationError) as caught:
            lg.FedAvg(**options)
        one_line(caught.value, *words)

    @pytest.mark.parametrize(
        "options",
        [
            {"minibatch": None},
            {"minibatch": 3},
            {"learning_rate": 1},
            {"epochs": np.int64(2), "learning_rate": np.float32(0.5)},
        ],
    )
    def test_what_lies_inside_is_taken(self, options: dict[str, Any]) -> None:
        assert lg.FedAvg(**options).count_steps(3) >= 1

    def test_every_part_s_defaults_lie_inside(self) -> None:
        made = [getattr(attacks, name) for name in attacks.__all__]
        made += [getattr(defenses, name) for name in defenses.__all__]
        checked = 0
        for part in made:
            try:
                found = part()
            except TypeError:  # The part has options without a default.
                continue
            check_ranges(found)
            checked += 1
        assert checked > 40


class TestLimit:
    def test_a_flag_lifts_it(self) -> None:
        assert len(plan_from(Source(SPEC + "repeats = 3"), max_cells=3).cells) == 3
        with pytest.raises(lg.SpecificationError, match="at most 2 "):
            plan_from(Source(SPEC + "repeats = 3"), max_cells=2)
        assert len(plan([case(repeats=3)], max_cells=None).cells) == 3
        with pytest.raises(lg.SpecificationError, match=r"at most 5 .* found 6 .* in 2 cases"):
            plan([case(repeats=3), case(repeats=3)], max_cells=5)
        with pytest.raises(lg.SpecificationError, match="at most 2 "):
            lg.audit(case(repeats=3), max_cells=2)

    def test_on_the_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "spec.toml").write_text(SPEC + "repeats = 3", "utf-8")
        command = ["audit", "spec.toml", "--out", "run", "--workers", "1", "--max-cells"]
        assert main([*command, "2"]) == 2
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1
        assert "found 3 (3 repeats)" in told
        assert main([*command, "0"]) == 2
        assert main([*command, "3"]) == 0

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (10_000, "10,000"),
            (10**15, "1,000,000,000,000,000"),
            (2 * 10**30, "about 2e30"),
            (7 * 10**5000, "about 7e5000"),
            (10**23, "about 1e23"),
        ],
        ids=lambda value: "count" if isinstance(value, int) else value,
    )
    def test_numbers_that_can_be_read(self, count: int, text: str) -> None:
        assert number(count) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(3, "3 s"), (600, "10 min"), (1e4, "3 h"), (1e6, "12 days"), (1e15, "31,688,088 years")],
    )
    def test_times_that_can_be_read(self, seconds: float, text: str) -> None:
        assert rounded(seconds) == text


class TestNoiseControl:
    """If the batch is the whole data set, the control is noise, for targets of any kind."""

    @pytest.mark.parametrize("batch_sizes", [[6], [1, 6]])
    def test_classes(self, batch_sizes: list[int]) -> None:
        run = lg.audit(case(data=noise(6), batch_sizes=batch_sizes))
        assert "uniform random" in run.cells[-1].control.kind
        assert not run.failures

    def test_a_number_of_classes_that_is_not_known(self) -> None:
        data = replace(noise(6), classes=None, targets=torch.arange(6) % 3 + 1)
        found = draw(plan([case(data=data, batch_sizes=[6])]).cells[0], lg.Seeds(0))
        assert "uniform random" in found.decoy_is
        assert set(found.decoy.targets.tolist()) <= {1, 2, 3}
        (cell,) = lg.audit(case(data=data, batch_sizes=[6])).cells
        assert cell.failure is None

    @pytest.mark.parametrize(
        ("targets", "classes"),
        [
            (torch.linspace(-1, 1, 6), None),
            (torch.linspace(-1, 1, 6)[:, None], None),
            (torch.eye(6), 6),
            (torch.arange(6 * 64).reshape(6, 8, 8) % 3, 3),
        ],
    )
    def test_targets_of_any_kind(self, targets: torch.Tensor, classes: int | None) -> None:
        data: Any = SimpleNamespace(targets=targets, classes=classes)
        found = random_targets(data, 10, torch.Generator().manual_seed(0))
        assert (found.shape, found.dtype) == ((10, *targets.shape[1:]), targets.dtype)
        known = [row.tolist() for row in targets]
        assert all(row.tolist() in known for row in found)

    def test_a_folder_of_one_class(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEAKGAUGE_DATA", str(tmp_path))
        (tmp_path / "faces/ann").mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / f"faces/ann/{i}.png")
        text = f"""
        data = {{name = "image_folder", path = "{tmp_path}/faces"}}
        model = {{name = "mlp", width = 4, depth = 2}}
        attacks = ["auto"]
        training = {{batch_size = [1, 4]}}
        """
        planned = plan_from(Source(text))
        run = lg.audit([cell.case for cell in planned.cells][:1])
        assert not run.failures
        assert len(run.cells) == 2


def test_the_header_tells_what_the_last_bits_hang_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "AVX2")
    lg.audit(case(), out=tmp_path / "run")
    found = json.loads((tmp_path / "run/records.jsonl").read_text().splitlines()[0])["machine"]
    assert found["processor"]
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"] == {"each_cell": 1, "interop": torch.get_num_interop_threads()}
    assert found["workers"] == 1
    assert found["environment"]["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    page = lg.write_report(tmp_path / "run").read_text("utf-8")
    assert "MKL_ENABLE_INSTRUCTIONS AVX2" in page
    assert "threads: each cell 1, interop" in page
    assert "the same seed gives identical results" in page


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Some CPU  @ 2 GHz\nflags : a\n", "Some CPU @ 2 GHz"),
        ("processor : 0\nCPU part\t: 0xd0c\n", "CPU part 0xd0c"),
        ("processor : 0\nModel : Board 4\n", "Board 4"),
        ("", ""),
    ],
)
def test_the_processor_has_a_name(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text, "utf-8")
    assert named(tmp_path / "cpuinfo") == name


@dataclass(frozen=True)
class Own:
    """A user's own attack that refuses to run.

    Args:
        requires: The knowledge that it requires.
        count: The number of evaluations in its plan.
        reason: Its reason not to run. If it is None, the attack makes a plan.
    """

    requires: Any = frozenset({"batch_size"})
    count: Any = 1
    reason: Any = "I had rather not"

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        if self.reason is not None:
            return lg.Inapplicable(self.reason)
        return lg.Plan(evaluations=self.count, search=self.search)

    def search(self, seeds: lg.Seeds, progress: lg.core.Progress) -> lg.Reconstruction:
        raise NotImplementedError


class Unnamed(Own):
    def __repr__(self) -> str:
        raise ValueError("no name")


class TestOwnParts:
    @pytest.mark.parametrize("requires", ["batch_size", None, frozenset({"everything"}), 3])
    def test_what_it_requires_is_a_set_of_names(self, requires: Any) -> None:
        with pytest.raises(lg.SpecificationError) as caught:
            plan([case(attacks=[Own(requires=requires)])])
        one_line(caught.value, "Own.requires", "batch_size", repr(requires))

    def test_a_part_without_a_name(self) -> None:
        with pytest.raises(lg.SpecificationError) as caught:
            plan([case(attacks=[Unnamed()])])
        one_line(caught.value, "Unnamed", "no name", "__repr__")

    @pytest.mark.parametrize("count", [None, "many", math.nan, math.inf, -1, 10**400])
    def test_a_cost_that_is_no_number_is_unknown(self, count: Any) -> None:
        """No plan can have this number of evaluations, so the cell fails and its cost is unknown."""
        audited = case(attacks=[Own(count=count, reason=None)])
        assert plan([audited]).unknown == 1
        (cell,) = lg.audit(audited).cells
        assert cell.status == "failed"
        assert ("Plan.evaluations: expected a whole number" in cell.message) == (count != 10**400)

    def test_a_long_reason_is_cut(self) -> None:
        (cell,) = lg.audit(case(attacks=[Own(reason="x" * 9000)])).cells
        assert cell.status == "inapplicable"
        assert len(cell.message) < 500

    @pytest.mark.parametrize("reason", ["two\nlines", "", 3])
    def test_its_reason_is_one_line(self, reason: Any) -> None:
        (cell,) = lg.audit(case(attacks=[Own(reason=reason)])).cells
        assert cell.status == "failed"
        assert "Inapplicable.reason: expected" in cell.message
        assert "\n" not in cell.message

    def test_a_forward_that_ends_the_program(self) -> None:
        class Leaving(nn.Flatten):
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                raise SystemExit(0)

        model = nn.Sequential(Leaving(), nn.Linear(64, 4))
        with pytest.raises(lg.ModelError, match="SystemExit"):
            plan([case(model=model)])
