"""A cell that fails never ends an audit. It becomes a record, and all other cells run."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import mlp
from support.audits import case
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.audit import Source, plan, worker
from leakgauge.audit import cell as cells
from leakgauge.audit.failures import reason_of
from leakgauge.audit.run import one_thread
from leakgauge.audit.verdict import judged
from leakgauge.cli import main
from leakgauge.console import show_results
from leakgauge.defenses.base import Undefended
from leakgauge.metrics import ssim
from leakgauge.metrics.leak import IMAGE_RULE
from leakgauge.modalities import ImageModality
from leakgauge.records import read
from leakgauge.report import recommendations
from leakgauge.summary import refusals


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """A user's own attack without a base class.

    Args:
        change: Function that turns a gray reconstruction into the result of the attack.
        on_check: Function that is called when the attack makes its plan.
        on_call: Function that is called when the attack runs.
        name: Name that tells two attacks apart.
    """

    change: Callable[[lg.Reconstruction], Any] = field(default=lambda guess: guess, repr=False)
    on_check: Callable[[], None] = field(default=nothing, repr=False)
    on_call: Callable[[], None] = field(default=nothing, repr=False)
    name: str = "own"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        self.on_check()
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
    ) -> Any:
        self.on_call()
        progress(lg.Moment(0.5))
        batch = observation.batch_size
        return self.change(
            lg.Reconstruction(
                inputs=torch.full((batch, *observation.domain.shape), 0.5),
                targets=torch.zeros(batch, dtype=torch.long),
                found=torch.ones(batch, dtype=torch.bool),
                status=lg.Status.UNCONVERGED,
            )
        )


def once(error: BaseException) -> Callable[[], None]:
    """Return a function that raises `error` at its first call, but not at later ones."""
    errors = [error]

    def fail() -> None:
        if errors:
            raise errors.pop()

    return fail


def raising(error: BaseException, *, after: int = 0) -> Callable[[], None]:
    """Return a function that does nothing in its first `after` calls, and raises `error` in all later ones."""
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise error

    return fail


class Nameless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


ERRORS: dict[str, BaseException] = {
    "an assertion": AssertionError("batch\nof two lines"),
    "too little memory": MemoryError(),
    "sys.exit": SystemExit(3),
    "a GeneratorExit": GeneratorExit("closed"),
    "no Exception": BaseException("of no class"),
    "an error of ours": lg.DataError("here", expected="this", found="that", remedy="do so"),
    "an error without a text": Nameless(),
    "a long text": RuntimeError("x" * 10_000),
}


class TestAttack:
    @pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
    @pytest.mark.parametrize("step", ["check", "attack"])
    def test_an_exception_is_a_record_and_the_others_run(
        self, tmp_path: Path, error: BaseException, step: str
    ) -> None:
        # The plan of the audit calls `on_check` once. The second call is in the cell.
        fails = raising(error, after=1 if step == "check" else 0)
        own = Own(on_check=fails) if step == "check" else Own(on_call=fails)
        case_ = case(attacks=[own, attacks.LinearLayer()])
        run = lg.audit(case_, out=tmp_path / "run")
        failed, sound = run.cells
        assert (failed.status, failed.scores, failed.control) == ("failed", {}, None)
        assert sound.status == "certified"
        assert failed.failure.step == step
        assert failed.failure.reason == reason_of(error)
        assert failed.message == f"the {step} failed: {reason_of(error)}"
        assert "\n" not in failed.message
        assert len(failed.message) < 500
        log = (tmp_path / "run" / failed.failure.log).read_text("utf-8")
        assert log.startswith("Traceback")
        assert "test_failures.py" in log
        assert run.tracebacks == {failed.failure.log: log}
        assert run.failures == [failed]
        assert not run.interrupted

    def test_ctrl_c_in_an_attack_passes(self) -> None:
        run = lg.audit(case(attacks=[Own(on_call=raising(KeyboardInterrupt())), Own()]))
        assert run.interrupted
        assert run.cells == []
        with pytest.raises(KeyboardInterrupt):
            lg.audit(case(attacks=[Own(on_check=raising(KeyboardInterrupt()))]))

    @pytest.mark.parametrize(
        "error", [GeneratorExit("closed"), BaseException(), RuntimeError("no")]
    )
    def test_a_plan_survives_what_an_attack_raises(self, error: BaseException) -> None:
        run = lg.audit(case(attacks=[Own(on_check=once(error))]))
        assert [cell.status for cell in run.cells] == ["unconverged"]

    @pytest.mark.parametrize("error", [GeneratorExit("closed"), RuntimeError("no")])
    def test_a_worker_that_cannot_plan_tells_its_parent_and_ends(
        self, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_: object) -> None:
            raise error

        monkeypatch.setattr(worker, "end_with_parent", lambda: None)
        monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
        monkeypatch.setattr(worker.signal, "pthread_sigmask", lambda *_: None)
        monkeypatch.setattr(worker, "parse", fails)
        mine, theirs = multiprocessing.Pipe()
        with one_thread():
            worker.Worker(Source(""), 0)(theirs)
        assert mine.recv() == worker.Unable(reason_of(error))

    def test_an_attack_of_ours_names_itself_and_its_cause(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> lg.Reconstruction:
            raise ZeroDivisionError("in the middle")

        plan = lg.Plan(evaluations=1, search=broken)
        monkeypatch.setattr(attacks.LinearLayer, "prepare", lambda *_: plan)
        run = lg.audit(case(attacks=[attacks.LinearLayer(), Own()]))
        failed, sound = run.cells
        assert failed.status == "failed"
        assert "LinearLayer: its search failed: ZeroDivisionError: in the middle" in failed.message
        assert "in broken" in run.tracebacks[failed.failure.log]
        assert sound.status == "unconverged"

    def test_a_model_that_takes_no_input_with_a_graph(self) -> None:
        """The attack may decline the model or fail on it. The other attack still runs."""

        class Picky(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = mlp()

            def forward(self, x: Tensor) -> Tensor:
                assert not x.requires_grad, "no derivative for you"
                return self.inner(x)  # type: ignore[no-any-return]

        run = lg.audit(case(model=Picky(), attacks=[attacks.InvertingGradients(steps=2), Own()]))
        picky, sound = run.cells
        assert picky.status in ("failed", "inapplicable")
        assert "no derivative for you" in picky.message
        assert sound.status == "unconverged"

    def test_the_second_attack_runs_after_a_layer_that_the_first_does_not_know(self) -> None:
        hard = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(784, 10)
        )
        inputs = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        data = lg.Dataset(
            name="h",
            inputs=inputs,
            targets=torch.arange(4),
            domain=lg.ImageDomain(1, 28, 28),
            classes=10,
        )
        both = [attacks.InvertingGradients(steps=5), attacks.RGAP()]
        run = lg.audit(lg.Case(name="h", data=data, model=hard, attacks=both))
        assert [cell.attack.name for cell in run.cells] == ["inverting_gradients", "rgap"]
        assert not run.interrupted

    def test_a_cost_that_cannot_be_known_is_no_mistake(self) -> None:
        planned = plan([case(attacks=[Own(on_check=raising(ValueError())), attacks.LinearLayer()])])
        assert planned.seconds[0] is None
        assert planned.seconds[1] is not None
        assert planned.unknown == 1
        assert planned.total == planned.seconds[1]

    def test_what_the_watcher_raises_is_not_the_attack_s_failure(self, tmp_path: Path) -> None:
        def watch(fraction: float, done: int) -> None:
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            lg.audit(case(attacks=[Own()]), watch=watch, out=tmp_path / "run")


def replaced(**changes: Any) -> Callable[[lg.Reconstruction], Any]:
    return lambda guess: replace(guess, **changes)


UNSOUND: dict[str, tuple[Callable[[lg.Reconstruction], Any], str]] = {
    "nothing": (lambda guess: None, "expected a Reconstruction; found an object of type NoneType"),
    "a tensor": (lambda guess: guess.inputs, "expected a Reconstruction"),
    "a wrong shape": (
        replaced(inputs=torch.zeros(2, 1, 8, 7)),
        "expected inputs of shape (2, 1, 8, 8)",
    ),
    "too few": (replaced(inputs=torch.zeros(1, 1, 8, 8)), "expected inputs of shape (2, 1, 8, 8)"),
    "a number": (replaced(inputs=torch.tensor(1.0)), "expected inputs of shape (2, 1, 8, 8)"),
    "integers": (replaced(inputs=torch.zeros(2, 1, 8, 8, dtype=torch.long)), "floating-point"),
    "NaN": (replaced(inputs=torch.full((2, 1, 8, 8), math.nan)), "finite inputs; found NaN"),
    "infinity": (replaced(inputs=torch.full((2, 1, 8, 8), math.inf)), "finite inputs"),
    "flags that are none": (replaced(found=None), "found as 2 flags"),
    "too many flags": (replaced(found=torch.ones(3, dtype=torch.bool)), "found as 2 flags"),
    "too few targets": (replaced(targets=torch.zeros(1)), "targets for 2 examples"),
    "a status of its own": (replaced(status="great"), "expected a Status; found 'great'"),
}


class TestUnsound:
    @pytest.mark.parametrize(("change", "words"), UNSOUND.values(), ids=UNSOUND)
    def test_what_cannot_be_scored_is_a_failure(
        self, change: Callable[[lg.Reconstruction], Any], words: str
    ) -> None:
        run = lg.audit(case(attacks=[Own(change=change), attacks.LinearLayer()], batch_sizes=[2]))
        failed, sound = run.cells
        assert failed.status == "failed"
        assert "Own returned no sound reconstruction" in failed.message
        assert words in failed.message
        assert sound.status == "certified"

    def test_a_search_that_diverged_may_hold_anything(self) -> None:
        wild = replaced(inputs=torch.full((1, 1, 8, 8), math.nan), status=lg.Status.DIVERGED)
        (cell,) = lg.audit(case(attacks=[Own(change=wild)])).cells
        assert cell.status == "diverged"
        assert math.isfinite(cell.scores["psnr"][0])

    def test_a_claim_is_bounded_by_the_residual(self) -> None:
        claims = [
            Own(change=replaced(status="certified"), name="none"),
            Own(change=replaced(status="certified", residual=0.2), name="far"),
            Own(change=replaced(status="certified", residual=5e-4), name="near"),
            Own(change=replaced(status="certified", residual=1e-6), name="proven"),
        ]
        found = lg.audit(case(attacks=claims)).cells
        # A gray image does not explain the update. The audit uses its own residual, not the one that the attack states.
        assert [cell.status for cell in found] == ["unconverged"] * 4
        assert all(cell.residual > 0.1 for cell in found)

    def test_an_update_of_zeros_is_no_signal_for_any_attack(self) -> None:
        silent_ = case(
            attacks=[Own(change=replaced(status="certified", residual=0.0))],
            loss=lambda output, target: 0 * output.sum(),
        )
        (cell,) = lg.audit(silent_).cells
        assert cell.status == "no signal"
        assert cell.scores == {}

    def test_a_graph_is_cut(self) -> None:
        def grown(guess: lg.Reconstruction) -> lg.Reconstruction:
            return replace(guess, inputs=guess.inputs.requires_grad_() * 1)

        (cell,) = lg.audit(case(attacks=[Own(change=grown)])).cells
        assert cell.status == "unconverged"

    def test_numbers_may_be_tensors(self, tmp_path: Path) -> None:
        odd = replaced(notes=(torch.ones(1),), objectives=(math.nan,), restart=torch.tensor(1))
        lg.audit(case(attacks=[Own(change=odd)]), out=tmp_path / "run")
        _, cell, _ = read(tmp_path / "run/records.jsonl")
        assert cell.objectives == (None,)
        assert cell.restart == 1
        assert cell.notes == ("tensor([1.])",)

    @pytest.mark.parametrize(
        ("changes", "step", "told"),
        [
            ({"restart": "two"}, "metric", "Cell.restart: expected a valid integer; found 'two'"),
            ({"objectives": (1j,)}, "metric", "Cell.objectives.0: expected a valid number; found"),
            ({"objectives": 3}, "attack", "expected objectives as a tuple; found an object of"),
            ({"notes": "all"}, "attack", "expected notes as a tuple; found an object of type str"),
        ],
    )
    def test_what_is_no_number_fails_the_cell(
        self, changes: dict[str, Any], step: str, told: str
    ) -> None:
        odd = Own(change=replaced(**changes))
        failed, sound = lg.audit(case(attacks=[odd, Own()])).cells
        assert (failed.status, failed.failure.step) == ("failed", step)
        assert told in failed.message
        assert "validation error" not in failed.message
        assert sound.status == "unconverged"


class TestControl:
    @pytest.fixture
    def run(self, tmp_path: Path) -> lg.Run:
        """Return a run with two attacks. The first one works on the private update and fails on the control's."""
        half = Own(on_call=raising(ValueError("not twice"), after=1))
        return lg.audit(case(attacks=[half, attacks.LinearLayer()]), out=tmp_path / "run")

    def test_the_scores_are_kept_without_a_control(self, run: lg.Run) -> None:
        half, sound = run.cells
        assert half.status == "unconverged"
        assert half.scores["psnr"]
        assert half.control.scores == {}
        assert half.verdict.leaks is None
        assert half.verdict.why == "there is no blind control"
        assert half.control.status == "failed"
        assert "not twice" in half.control.message
        assert half.failure.step == "control"
        assert half.images.control == ()
        assert len(half.images.reconstruction) == 1
        assert sound.control.scores
        assert run.failures == [half]

    def test_it_is_never_called_a_leak(self, run: lg.Run) -> None:
        assert run.folder is not None
        half = run.cells[0]
        # Even an almost exact reconstruction is not judged without a control.
        exact = half.scores | {"psnr": (200.0,)}
        assert judged(IMAGE_RULE, exact, {}, half.found, better="higher").leaks is None
        page = lg.write_report(run.folder).read_text("utf-8")
        assert "1 blind control failed." in page
        assert "There is no blind control: ValueError: not twice" in page
        assert page.count("not judged") >= 2
        # Only the audit with the other attack counts.
        assert "1 of 1 undefended audit, " in page

    def test_a_defense_is_not_credited_without_a_control(self, tmp_path: Path) -> None:
        calls = count()

        def every_second() -> None:
            if next(calls) % 2:
                raise ValueError("no control")

        both = [None, defenses.GaussianNoise(std=0.1)]
        lg.audit(case(attacks=[Own(on_call=every_second)], defenses=both), out=tmp_path / "run")
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert "No example could be judged: the blind controls are missing." in page
        assert ">not judged</text>" in page
        assert ">held</text>" not in page

    def test_a_defense_is_not_credited_where_the_undefended_audit_failed(
        self, tmp_path: Path
    ) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Bare(Own):
            def guess(
                self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
            ) -> Any:
                if observation.knowledge.defense is None:
                    raise ValueError("bare")
                return super().guess(observation, seeds, progress)

        both = [None, defenses.GaussianNoise(std=0.1)]
        lg.audit(case(attacks=[Bare()], defenses=both), out=tmp_path / "run")
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert "No audit without the defense could be judged" in page
        assert "Nothing leaked without the defense" not in page

    def test_a_metric_that_fails_on_the_control_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metric = raising(RuntimeError("metric"), after=1)

        def psnr(truth: Tensor, guess: Tensor) -> Tensor:
            metric()
            return torch.ones(len(truth))

        monkeypatch.setattr(ImageModality, "metrics", lambda *_: {"psnr": psnr, "ssim": ssim})
        (cell,) = lg.audit(case(attacks=[Own()])).cells
        assert cell.failure.step == "control"
        assert cell.scores["psnr"] == (1.0,)


@dataclass(frozen=True, kw_only=True)
class Breaking(Undefended):
    """A user's own defense that fails on every update."""

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        raise KeyError("weight")


class TestOtherSteps:
    def test_a_defense(self, tmp_path: Path) -> None:
        both: list[lg.Defense | None] = [Breaking(), None]
        run = lg.audit(
            case(defenses=both, utility=lg.Utility(clients=2, rounds=1)), out=tmp_path / "run"
        )
        failed, sound = run.cells
        assert (failed.status, failed.failure.step) == ("failed", "update")
        assert sound.status == "certified"
        assert [t.status for t in run.trainings] == ["trained", "failed"]
        trained, broken = run.trainings
        assert trained.accuracy
        assert (broken.accuracy, broken.failure.step) == ((), "training")
        logs = {failed.failure.log, broken.failure.log}
        assert {f"failures/{p.name}" for p in (tmp_path / "run/failures").iterdir()} == logs
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert "1 of 2 audits failed, 1 of 2 trainings failed." in page
        for name in logs:
            assert name in page

    def test_a_metric(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(truth: Tensor, guess: Tensor) -> Tensor:
            raise RuntimeError("no such metric")

        monkeypatch.setattr(ImageModality, "metrics", lambda *_: {"psnr": broken, "ssim": ssim})
        (cell,) = lg.audit(case()).cells
        assert (cell.status, cell.failure.step) == ("failed", "metric")

    def test_a_batch_that_cannot_be_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cells, "draw", lambda *_: raising(IndexError("draw"))())
        (cell,) = lg.audit(case()).cells
        assert (cell.status, cell.failure.step) == ("failed", "data")
        assert cell.data.examples == ()

    def test_ctrl_c_is_no_failure(self) -> None:
        run = lg.audit(case(attacks=[Own(on_call=raising(KeyboardInterrupt()))]))
        assert run.interrupted
        assert not run.cells


class TestReport:
    def test_a_run_of_failures_alone(self, tmp_path: Path) -> None:
        lg.audit(case(attacks=[Own(on_call=raising(ValueError("<b>")))]), out=tmp_path / "run")
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert "No verdict: the only audit failed." in page
        assert "1 of 1 audit failed." in page
        assert "&lt;b&gt;" in page
        assert "<b>ValueError" not in page

    def test_no_leak_beside_failures_is_no_verdict(self, tmp_path: Path) -> None:
        failing = Own(on_call=raising(ValueError("mine")), name="failing")
        lg.audit(case(attacks=[failing, Own()]), out=tmp_path / "run")
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert '<h1 class="open">No leak was found, but 1 of 2 undefended audits failed' in page

    def test_many_failures_are_folded(self, tmp_path: Path) -> None:
        lg.audit(case(attacks=[Own(on_call=raising(ValueError("mine")))], repeats=20), out=tmp_path)
        page = lg.write_report(tmp_path).read_text("utf-8")
        assert "The other 12 failures" in page
        assert page.count("failures/0") == 20

    def test_an_audit_without_failures_has_no_list_of_them(self, tmp_path: Path) -> None:
        lg.audit(case(), out=tmp_path / "run")
        page = lg.write_report(tmp_path / "run").read_text("utf-8")
        assert 'id="failed"' not in page

    def test_a_recommendation_rests_on_no_failed_audit(self, tmp_path: Path) -> None:
        """The attack works on the undefended update, but fails on the defended one. No defense is recommended."""

        @dataclass(frozen=True, kw_only=True)
        class Shy(Own):
            def guess(
                self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
            ) -> Any:
                if observation.knowledge.defense is not None:
                    raise ValueError("defended")
                return attacks.LinearLayer()(observation, seeds=seeds, progress=progress)

        priced = case(
            attacks=[Shy()],
            defenses=[None, defenses.TopK(sparsity=0.9)],
            utility=lg.Utility(clients=2, rounds=1),
        )
        lg.audit(priced, out=tmp_path / "run")
        lg.write_report(tmp_path / "run")
        (advice,) = recommendations(tmp_path / "run", 1.0)
        assert advice.chosen is None
        told = {refusal.setting.defense: refusal.words for refusal in advice.refused}
        assert "shy failed on it" in told["top_k"]

    def test_where_an_attack_failed_nothing_is_called_safe(self, tmp_path: Path) -> None:
        failing = Own(on_call=raising(ValueError("mine")), name="failing")
        priced = case(
            attacks=[failing, Own()],
            defenses=[None, defenses.TopK(sparsity=0.9)],
            utility=lg.Utility(clients=2, rounds=1),
        )
        lg.audit(priced, out=tmp_path / "run")
        (advice,) = recommendations(tmp_path / "run", 1.0)
        assert advice.evidence == "weak"
        assert "No defense is needed" not in advice.sentence
        assert "an audit by own, name = 'failing' failed" in advice.sentence
        assert "failed" in lg.write_report(tmp_path / "run").read_text("utf-8")


PARTS = """
import torch
from torch import nn

import leakgauge as lg


def data(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, 1, 8, 8), generator=generator), torch.arange(count) % 2


class Broken:
    requires = frozenset({"batch_size"})

    def plan(self, observation):
        return lg.Plan(evaluations=1, search=self.guess)

    def guess(self, seeds, progress):
        raise ValueError("mine")
"""
SPEC = """
data = "their_failing_parts:data"
model = {name = "mlp", width = 8}
attacks = ["their_failing_parts:Broken", "linear_layer"]
"""


class TestCommand:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "their_failing_parts.py").write_text(PARTS, "utf-8")
        (tmp_path / "spec.toml").write_text(SPEC, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_exit_code_1_and_everything_else_as_ever(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
    ) -> None:
        assert main(["audit", "spec.toml", "--out", "run", "--workers", workers]) == 1
        told = capsys.readouterr()
        assert "1 failed. The others are not affected" in told.err
        assert "the attack failed: ValueError: mine" in told.err
        assert "Tracebacks: run/failures" in told.err
        assert "Traceback " not in told.err
        assert "failed" in told.out
        assert "certified" in told.out
        assert (tmp_path / "run/failures/000.log").read_text().startswith("Traceback")
        assert "What failed" in (tmp_path / "run/report.html").read_text("utf-8")

    def test_json_holds_the_failure(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["audit", "spec.toml", "--out", "run", "--workers", "1", "--json"]) == 1
        records = json.loads(capsys.readouterr().out)["records"]
        assert records[1]["failure"] == {
            "step": "attack",
            "reason": "ValueError: mine",
            "log": "failures/000.log",
        }
        assert records[2]["failure"] is None


def test_auto_without_attacks_says_so() -> None:
    (cell,) = lg.audit(case(attacks=[attacks.Auto(attacks=())])).cells
    assert cell.status == "inapplicable"
    assert cell.message == "it has no attacks: name one in `attacks`"


def test_an_attack_that_refuses_during_its_search_gets_no_scores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A refused reconstruction is gray. It is not scored, and the reason stands below the table."""
    refused = Own(
        change=lambda guess: replace(
            guess, status=lg.Status.INAPPLICABLE, message="4 channels for 36 positions"
        )
    )
    run = lg.audit(case(attacks=[refused, attacks.LinearLayer()]))
    cell, other = run.cells
    assert cell.inapplicable
    assert not cell.scores
    assert cell.images is None
    assert cell.message == "4 channels for 36 positions"
    assert other.ran
    show_results(run, Path("report.html"), as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "inapplicable: 4 channels for 36 positions" in shown


def test_equal_reasons_are_one_line() -> None:
    cells = lg.audit(case(attacks=[attacks.Auto(attacks=())], batch_sizes=[1, 2])).cells
    (line,) = refusals(cells)
    assert line == "auto, B 1, 2, inapplicable: it has no attacks: name one in `attacks`"


def test_reasons_name_their_case_if_there_are_several() -> None:
    first, second = (case(name=name, attacks=[attacks.Auto(attacks=())]) for name in ("a", "b"))
    (line,) = refusals(lg.audit([first, second]).cells)
    assert line.startswith("a, b, auto, B 1, inapplicable: it has no attacks")
