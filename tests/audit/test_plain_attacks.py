"""An audit and Auto treat a plain class with `requires` and `plan` like an attack that has our base class."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images, mlp
from support.audits import case
from torch import Tensor

import leakgauge as lg
from leakgauge import attacks
from leakgauge.core import Progress, Tensors


class Plain:
    """An attack without a base class, a repr, a time or a residual. Its images hold a mean of random numbers."""

    requires = frozenset({"batch_size"})
    status = lg.Status.UNCONVERGED
    residual: float | None = None
    targets: Tensor | None = None

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        drawn = torch.rand(()) + np.random.rand()
        return lg.Plan(evaluations=1, search=partial(self.search, observation, float(drawn)))

    def search(
        self, observation: lg.Observation, drawn: float, seeds: lg.Seeds, progress: Progress
    ) -> lg.Reconstruction:
        progress(lg.Moment(0.5))
        parts = [torch.rand(()), np.random.rand(), random.random(), drawn]
        parts += [torch.rand((), generator=seeds.generator("own"))]
        count, value = observation.batch_size, float(sum(map(float, parts))) / 6
        return lg.Reconstruction(
            inputs=torch.full((count, *observation.domain.shape), value),
            targets=torch.zeros(count, dtype=torch.long) if self.targets is None else self.targets,
            found=torch.ones(count, dtype=torch.bool),
            status=self.status,
            residual=self.residual,
        )


class Based(lg.BaseAttack):
    """The attack Plain with our base class."""

    requires = Plain.requires
    search, status, residual, targets = Plain.search, Plain.status, Plain.residual, Plain.targets
    prepare = Plain.plan


class Claiming(Plain):
    status, residual = lg.Status.CERTIFIED, 0.0


class Mislabeled(Claiming):
    """An attack whose labels are not classes of the model, so its update cannot be simulated."""

    targets = torch.tensor([17])


class Fog:
    """A defense without a base class and without a repr."""

    strength: Any = "std"

    def __init__(self, std: float) -> None:
        self.std = std

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds) -> Any:
        return inputs, targets

    def on_model(self, model: Any, *, seeds: lg.Seeds) -> Any:
        return model

    def on_training(self, training: Any, *, seeds: lg.Seeds) -> Any:
        return training

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        generator = seeds.generator("fog")
        return update.map(lambda t: t + self.std * torch.randn(t.shape, generator=generator).to(t))

    def adapt(self, observed: lg.Update) -> Any:
        def same(simulated: Tensors) -> Tensors:
            return simulated

        return same


def told(cell: lg.records.Cell) -> dict[str, Any]:
    """Return the fields of a record without its costs, which hold times."""
    return cell.model_dump(exclude={"cost", "control_cost"})


def seed_generators(seed: int) -> None:
    """Seed the global generators, as a caller may do before an audit."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("kind", [Plain, Based])
def test_one_seed_gives_one_result(kind: Any) -> None:
    cells = []
    for seed in (1, 2):
        seed_generators(seed)
        before = torch.get_rng_state()
        # Each pass makes new objects, so their default reprs hold different addresses.
        (cell,) = lg.audit(case(attacks=[kind()], defenses=[Fog(0.1)])).cells
        cells.append(cell)
        assert torch.equal(before, torch.get_rng_state())
    assert told(cells[0]) == told(cells[1])
    assert cells[0].attack.repr == f"{kind.__name__}()"
    assert cells[0].defense.repr == "Fog()"


def test_a_watcher_that_draws_changes_nothing() -> None:
    (alone,) = lg.audit(case(attacks=[Plain()])).cells
    (watched,) = lg.audit(case(attacks=[Plain()]), watch=lambda *_: torch.rand(3)).cells
    assert told(alone) == told(watched)


def test_objects_of_one_class_are_told_apart() -> None:
    audited = case(
        attacks=[Plain(), Plain()],
        defenses=[Fog(0.1), Fog(3.0)],
        utility=lg.Utility(clients=2, rounds=1),
    )
    run = lg.audit(audited)
    assert [(cell.defense.repr, cell.attack.repr) for cell in run.cells] == [
        (defense, attack)
        for defense in ("Fog()", "Fog() #2")
        for attack in ("Plain()", "Plain() #2")
    ]
    assert [training.defense.repr for training in run.trainings] == ["none", "Fog()", "Fog() #2"]
    assert [cell.defense.strength for cell in run.cells] == [0.1, 0.1, 3.0, 3.0]
    assert {cell.defense.strength_name for cell in run.cells} == {"std"}


def test_an_address_within_a_repr_is_left_out() -> None:
    inner = attacks.Auto(attacks=(attacks.Entry(attack=Plain(), guards=(lambda seen: None,)),))
    cells = []
    for attack in (inner, attacks.Auto(attacks=(Plain(),))):
        cells += lg.audit(case(attacks=[attack])).cells
    for cell in cells:
        assert " at 0x" not in cell.model_dump_json()
        assert "Plain()" in cell.attack.repr


@pytest.mark.parametrize(
    ("strength", "name", "number", "text"),
    [("std", "std", 0.5, "0.5"), (2, "strength", 2.0, "2"), ("high", "strength", None, "high")],
)
def test_the_strength_of_a_plain_defense(
    strength: Any, name: str, number: float | None, text: str
) -> None:
    defense = Fog(0.5)
    defense.strength = strength
    (cell,) = lg.audit(case(defenses=[defense])).cells
    found = cell.defense
    assert (found.strength_name, found.strength, found.strength_text) == (name, number, text)


def test_seconds_are_measured() -> None:
    (cell,) = lg.audit(case(attacks=[Plain()])).cells
    assert cell.cost.seconds > 0
    assert cell.control_cost.seconds > 0


@pytest.mark.parametrize("kind", [Plain, Based, Claiming])
def test_the_residual_is_computed(kind: Any) -> None:
    (cell,) = lg.audit(case(attacks=[kind()])).cells
    assert cell.residual is not None
    assert cell.residual > 0.01
    assert cell.status == "unconverged"


def test_a_batch_that_cannot_be_simulated_has_no_residual() -> None:
    (cell,) = lg.audit(case(attacks=[Mislabeled()])).cells
    assert cell.residual is None
    assert cell.status == "unconverged"
    assert any("cannot be simulated" in note for note in cell.notes)
    assert "not proven" in cell.message


def observed() -> lg.Observation:
    return lg.Server().observe(case(model=mlp()).client(), images(1), seeds=lg.Seeds(0))


@pytest.mark.parametrize("kind", [Claiming, Mislabeled])
def test_what_it_claims_ends_no_auto(kind: Any) -> None:
    auto = attacks.Auto(attacks=(kind(), attacks.LinearLayer()))
    found = auto(observed(), seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert found.residual is not None
    assert found.residual < 1e-4
    assert any("LinearLayer()" in note for note in found.notes)


class Failing(Plain):
    def search(self, *_: Any) -> lg.Reconstruction:
        raise ZeroDivisionError


class Unplanned(Plain):
    def plan(self, observation: lg.Observation) -> Any:
        return "no plan"


@pytest.mark.parametrize("kind", [Failing, Unplanned])
def test_what_it_raises_ends_no_auto(kind: Any) -> None:
    auto = attacks.Auto(attacks=(kind(), attacks.LinearLayer()))
    found = auto(observed(), seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert any(kind.__name__ in note for note in found.notes)


def test_it_draws_the_same_in_auto_whatever_was_seeded() -> None:
    guesses = []
    for seed in (1, 2):
        seed_generators(seed)
        guesses.append(attacks.Auto(attacks=(Plain(),))(observed(), seeds=lg.Seeds(0)))
    assert torch.equal(guesses[0].inputs, guesses[1].inputs)
    assert guesses[0].notes == guesses[1].notes
