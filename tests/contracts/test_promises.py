"""Records keep their promises, whatever a user's own attack, defense or watcher does."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from conftest import client, images, mlp
from torch import nn

import leakgauge as lg
from leakgauge.attacks.entries import Entry
from leakgauge.core import StopAttack
from leakgauge.core.origin import is_our_class, is_ours
from leakgauge.defenses.base import Undefended
from leakgauge.inversion.simulation.simulator import simulator

CLAIMS = (lg.Status.CERTIFIED, lg.Status.CONVERGED)
Own = Callable[..., Any]


@dataclass(frozen=True)
class Mine:
    """An attack without a base class. It calls `guess(observation, progress)`."""

    guess: Own
    requires: Any = frozenset({"batch_size"})
    evaluations: Any = 1

    def plan(self, observation: lg.Observation) -> Any:
        def search(seeds: lg.Seeds, progress: Any) -> Any:
            return self.guess(observation, progress)

        return lg.Plan(evaluations=self.evaluations, search=search)


@dataclass(frozen=True)
class Based(lg.BaseAttack):
    """The same attack with a base class."""

    guess: Own
    requires: Any = frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> Any:
        return Mine(self.guess).plan(observation)


def lie(observation: lg.Observation, progress: Any = None, **changes: Any) -> lg.Reconstruction:
    count = observation.batch_size
    gray = torch.full((count, *observation.domain.shape), 0.5)
    found = lg.Reconstruction(
        inputs=gray,
        targets=torch.zeros(count, dtype=torch.long),
        found=torch.ones(count, dtype=torch.bool),
        status=lg.Status.CERTIFIED,
        residual=0.0,
    )
    return replace(found, **changes)


def stopping(observation: lg.Observation, progress: Any) -> Any:
    progress(lg.Moment(0.5, 1, 0.0, best=lambda: lie(observation)))
    raise StopAttack


def forged(observation: lg.Observation) -> dict[str, torch.Tensor]:
    """Return the update that the lie would share."""
    found = lie(observation)
    made = simulator(observation, create_graph=False)(found.inputs, found.targets)
    return {name: t.detach() for name, t in made.items()}


def overwriting(observation: lg.Observation, progress: Any) -> Any:
    for name, made in forged(observation).items():
        observation.update.tensors[name].copy_(made)
    return lie(observation)


def exchanging(observation: lg.Observation, progress: Any) -> Any:
    observation.update.tensors.update(forged(observation))
    return lie(observation)


def replacing(observation: lg.Observation, progress: Any) -> Any:
    object.__setattr__(observation, "update", lg.Update(forged(observation)))
    return lie(observation)


def emptying(observation: lg.Observation, progress: Any) -> Any:
    with torch.no_grad():
        for parameter in observation.model.parameters():
            parameter.zero_()
    return lie(observation)


class Stubborn(lg.Reconstruction):
    def __post_init__(self) -> None:
        object.__setattr__(self, "status", lg.Status.CERTIFIED)
        object.__setattr__(self, "residual", 0.0)


def stubborn(observation: lg.Observation, progress: Any) -> Any:
    found = lie(observation)
    return Stubborn(
        inputs=found.inputs, targets=found.targets, found=found.found, status=lg.Status.UNCONVERGED
    )


def unfound(observation: lg.Observation, progress: Any) -> Any:
    return lie(observation, found=torch.zeros(observation.batch_size, dtype=torch.bool))


def modest(observation: lg.Observation, progress: Any) -> Any:
    return lie(observation, status=lg.Status.UNCONVERGED)


LIES = [lie, stopping, overwriting, exchanging, replacing, emptying, stubborn, unfound, modest]


def case(attack: Any, **changes: Any) -> lg.Case:
    batch = images(8)
    data = lg.Dataset("images", batch.inputs, batch.targets, lg.ImageDomain(1, 8, 8), 4)
    return lg.Case(name="case", data=data, model=mlp(), attacks=[attack], **changes)


def audited(attack: Any, **changes: Any) -> Any:
    (cell,) = lg.audit(case(attack, **changes)).cells
    return cell


@pytest.fixture
def observation() -> lg.Observation:
    return lg.Server().observe(client(mlp()), images(1), seeds=lg.Seeds(0))


@pytest.mark.parametrize("guess", LIES, ids=lambda guess: guess.__name__)
@pytest.mark.parametrize(
    "wrap",
    [
        Mine,
        Based,
        lambda guess: lg.attacks.Auto(attacks=(Entry(attack=Mine(guess)),)),
        lambda guess: lg.attacks.Auto(attacks=(Entry(attack=Based(guess)),)),
    ],
    ids=["plain", "based", "auto", "auto of based"],
)
def test_a_lie_is_not_recorded(wrap: Any, guess: Own) -> None:
    cell = audited(wrap(guess))
    assert cell.status == "unconverged"
    assert cell.residual is None or cell.residual > 0.1
    assert (cell.residual is None) == (guess is unfound)


@pytest.mark.parametrize("guess", [lie, overwriting, exchanging, replacing, emptying])
def test_a_liar_before_ours_hides_nothing(guess: Own, observation: lg.Observation) -> None:
    auto = lg.attacks.Auto(attacks=(Mine(guess), lg.attacks.LinearLayer()))
    found = auto(observation, seeds=lg.Seeds(0))
    alone = lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0))
    assert found.status is alone.status is lg.Status.CERTIFIED
    assert torch.equal(found.inputs, alone.inputs)


def failing(error: BaseException) -> Own:
    def guess(observation: lg.Observation, progress: Any) -> Any:
        raise error

    return guess


def guarded(observation: lg.Observation) -> str | None:
    raise ValueError("guard")


BAD: dict[str, Any] = {
    "search": Mine(failing(ValueError("no"))),
    "user error": Mine(
        failing(lg.DataError("w", expected="a", found="b", remedy="c")),
    ),
    "exit": Mine(failing(SystemExit(0))),
    "nothing": Mine(lambda *_: None),
    "text": Mine(lambda *_: "certified"),
    "evaluations none": Mine(lie, evaluations=None),
    "evaluations many": Mine(lie, evaluations="many"),
    "requires": Mine(lie, requires=7),
    "infinite": Mine(lambda seen, _: lie(seen, inputs=lie(seen).inputs / 0)),
    "cost": Mine(lambda seen, _: lie(seen, cost=None)),
    "guard": Entry(attack=lg.attacks.LinearLayer(), guards=(guarded,)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_entry_is_a_note(bad: Any, observation: lg.Observation) -> None:
    auto = lg.attacks.Auto(attacks=(bad, lg.attacks.LinearLayer()))
    found = auto(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert any("failed: " in note for note in found.notes)


@pytest.mark.parametrize("targets", [torch.tensor([77]), torch.tensor([True]), torch.ones(1, 2)])
def test_targets_that_cannot_be_simulated_have_no_residual(
    targets: torch.Tensor, observation: lg.Observation
) -> None:
    wrong = Mine(lambda seen, _: lie(seen, targets=targets, inputs=lie(seen).inputs.half()))
    cell = audited(wrong)
    assert cell.status == "unconverged"
    found = lg.attacks.Auto(attacks=(wrong, lg.attacks.LinearLayer()))(
        observation, seeds=lg.Seeds(0)
    )
    assert found.status is lg.Status.CERTIFIED


def test_ctrl_c_passes(observation: lg.Observation) -> None:
    auto = lg.attacks.Auto(attacks=(Mine(failing(KeyboardInterrupt())), lg.attacks.LinearLayer()))
    with pytest.raises(KeyboardInterrupt):
        auto(observation, seeds=lg.Seeds(0))


def test_a_name_makes_no_attack_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("leakgauge.plugins.mine")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = type("Plugin", (Mine,), {"__module__": module.__name__, "judges_parts": True})
    module.Plugin = kind  # type: ignore[attr-defined]
    assert not is_our_class(kind)
    # A class that ABCMeta makes without a module has the name of ABCMeta's module.
    assert not is_ours(type("Made", (lg.BaseAttack,), {"__module__": "abc"}))
    assert audited(kind(lie)).status == "unconverged"
    assert is_our_class(lg.attacks.LinearLayer)
    assert is_ours(lg.attacks.Auto())
    patched = lg.attacks.LinearLayer()
    object.__setattr__(patched, "prepare", Mine(lie).plan)
    assert not is_ours(patched)


@dataclass(frozen=True)
class Inverting:
    """A local training on inverted images, 1 - x."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __call__(self, model: Any, loss: Any, inputs: Any, targets: Any, **options: Any) -> Any:
        return self.inner(model, loss, 1 - inputs, targets, **options)


class InTraining(Undefended):
    def on_training(self, training: Any, *, seeds: lg.Seeds) -> Any:
        return Inverting(training)


class OnInstance(Undefended):
    def __init__(self) -> None:
        object.__setattr__(self, "on_batch", lambda x, y, *, seeds: (1 - x, y))


class Hidden(Undefended):
    def __getattribute__(self, name: str) -> Any:
        if name == "on_batch":
            return lambda x, y, *, seeds: (1 - x, y)
        return super().__getattribute__(name)


class Yielding(Undefended):
    def adapt(self, observed: lg.Update) -> Any:
        return lambda simulated: observed.tensors


@pytest.mark.parametrize("kind", [InTraining, OnInstance, Hidden])
def test_under_a_user_s_own_defense_nothing_is_certified(kind: Any) -> None:
    for defense in (kind(), lg.defenses.Chain(defenses=(lg.defenses.Sign(), kind()))):
        cell = audited(lg.attacks.LinearLayer(), defenses=[defense])
        assert cell.status != "certified"
    cell = audited(lg.attacks.LinearLayer(), defenses=[kind()])
    assert "not LeakGauge's own" in cell.message


def test_under_a_defense_that_yields_nothing_is_certified() -> None:
    threat = lg.Server(defense=True)
    assert audited(Mine(lie), defenses=[Yielding()], threat=threat).status != "certified"
    observed = threat.observe(client(mlp(), defense=Yielding()), images(1), seeds=lg.Seeds(0))
    assert lg.attacks.LinearLayer()(observed, seeds=lg.Seeds(0)).status is lg.Status.CONVERGED


def test_a_watcher_holds_copies(observation: lg.Observation) -> None:
    def clear(moment: lg.Moment) -> None:
        if moment.best is not None:
            best = moment.best()
            best.inputs.zero_()
            best.found.zero_()

    for attack in (lg.attacks.LinearLayer(), lg.attacks.IDLG(steps=3)):
        watched = attack(observation, seeds=lg.Seeds(0), progress=clear)
        alone = attack(observation, seeds=lg.Seeds(0))
        assert torch.equal(watched.inputs, alone.inputs)
        assert bool(watched.found.all())


def test_a_watcher_of_auto_is_no_failure_of_an_attack(observation: lg.Observation) -> None:
    def watch(moment: lg.Moment) -> None:
        raise RuntimeError("mine")

    auto = lg.attacks.Auto(attacks=(lg.attacks.LinearLayer(), lg.attacks.IDLG(steps=1)))
    with pytest.raises((RuntimeError, lg.AttackError), match="mine"):
        auto(observation, seeds=lg.Seeds(0), progress=watch)


def test_a_reused_tensor_does_not_carry_the_control_s_rows() -> None:
    kept = torch.zeros(1, 1, 8, 8)
    fill = iter((0.25, 0.75))

    def guess(observation: lg.Observation, progress: Any) -> Any:
        kept.fill_(next(fill))
        return lie(observation, inputs=kept, status=lg.Status.UNCONVERGED)

    cell = audited(Mine(guess))
    assert cell.scores["psnr"] != cell.control.scores["psnr"]
    fresh = iter((0.25, 0.75))
    again = audited(Mine(lambda seen, _: lie(seen, inputs=torch.full((1, 1, 8, 8), next(fresh)))))
    assert cell.scores == again.scores


def test_an_invented_faint_example_is_not_certified() -> None:
    batch = lg.Batch(images(2).inputs, torch.tensor([0, 1]))
    model = mlp()
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias[0] = 16.0
    data = lg.Dataset("two", batch.inputs, batch.targets, lg.ImageDomain(1, 8, 8), 4)
    wrong = batch.inputs.clone()
    wrong[0] = 1 - wrong[0]

    def guess(observation: lg.Observation, progress: Any, inputs: Any = wrong) -> Any:
        return lie(observation, inputs=inputs, targets=batch.targets)

    for attack in (Mine(guess), Based(guess), lg.attacks.Auto(attacks=(Mine(guess),))):
        made = lg.Case(name="c", data=data, model=model, attacks=[attack], batch_sizes=[2])
        (cell,) = lg.audit(made).cells
        assert cell.status == "converged"
        assert "contributes least" in cell.message


def test_invented_soft_targets_are_not_certified() -> None:
    """With a linear layer without a bias, a scaled image with other targets has the same gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))

    def scaled(observation: lg.Observation, progress: Any, size: float = 1.0) -> Any:
        (slope,) = observation.update.tensors.values()
        image = torch.linalg.svd(slope.double()).Vh[0]
        image = image * image.sum().sign() / image.abs().max() * size
        inputs = image.float().view(1, 1, 8, 8)
        with torch.no_grad():
            probabilities = observation.model(inputs).softmax(1)
        part = slope.double() @ image / image.norm() ** 2
        return lie(observation, inputs=inputs, targets=probabilities - part.float()[None])

    batch = images(8)
    # The images are half as bright, so that a brighter copy is valid, too.
    data = lg.Dataset("images", batch.inputs / 2, batch.targets, lg.ImageDomain(1, 8, 8), 4)
    for attack in (Mine(scaled), lg.attacks.Auto(attacks=(Mine(scaled),))):
        made = lg.Case(name="c", data=data, model=model, attacks=[attack])
        (cell,) = lg.audit(made).cells
        assert cell.residual < 1e-4
        assert cell.status == "converged"
        assert "its targets are free numbers" in cell.message


def test_an_honest_attack_of_a_user_s_own_is_certified() -> None:
    def read(observation: lg.Observation, progress: Any) -> Any:
        return lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0))

    for wrap in (Mine, Based):
        assert audited(wrap(read)).status == "certified"
