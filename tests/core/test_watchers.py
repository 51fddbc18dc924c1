"""A progress callback receives true moments, and its own exceptions reach the caller unchanged."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from conftest import images, planned, sigmoid_cnn
from support.audits import case as audit_case

import leakgauge as lg
from leakgauge import attacks
from leakgauge.core import Progress, silent
from leakgauge.core.seeds import isolate_draws

Observe = Callable[..., lg.Observation]


class Interrupted(Exception):
    """An exception of the caller's own."""


def failing(error: Exception, after: int) -> tuple[list[lg.Moment], Progress]:
    """Return a callback that raises `error` at its moment number `after`, and the list of its moments."""
    moments: list[lg.Moment] = []

    def watch(moment: lg.Moment) -> None:
        moments.append(moment)
        if len(moments) > after:
            raise error

    return moments, watch


AUTO = attacks.Auto(attacks=(attacks.IDLG(steps=20), attacks.InvertingGradients(steps=20)))


@pytest.mark.parametrize("attack", [attacks.InvertingGradients(steps=20), AUTO])
@pytest.mark.parametrize("error", [Interrupted("mine"), lg.AttackError("mine"), OSError("full")])
def test_what_a_watcher_raises_leaves_as_it_is(
    observe: Observe, attack: lg.BaseAttack, error: Exception
) -> None:
    error.__cause__ = cause = ValueError("before")
    moments, watch = failing(error, 3)
    with pytest.raises(type(error), match=r"mine|full") as caught:
        attack(observe(sigmoid_cnn(), images(1)), seeds=lg.Seeds(0), progress=watch)
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert len(moments) == 4, "no other attack goes on"


def test_what_a_watcher_of_an_audit_raises_leaves_as_it_is() -> None:
    def watch(*_: Any) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        lg.audit(audit_case(attacks=[AUTO]), watch=watch)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"fraction": 2.0}, "fraction"),
        ({"fraction": -0.1}, "fraction"),
        ({"fraction": math.nan}, "fraction"),
        ({"fraction": torch.tensor(0.5)}, "fraction"),
        ({"fraction": True}, "fraction"),
        ({"evaluations": -1}, "evaluations"),
        ({"evaluations": 0.5}, "evaluations"),
        ({"objective": math.nan}, "objective"),
        ({"objective": "low"}, "objective"),
        ({"best": 3}, "best"),
    ],
)
def test_a_moment_is_checked_where_it_is_made(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(lg.AttackError, match=rf"^Moment\.{name}: expected [^\n]*; found [^\n]*$"):
        lg.Moment(**({"fraction": 0.5} | fields))


@pytest.mark.parametrize("fraction", [0, 1, 0.25])
def test_moments_of_any_number_are_made(fraction: float) -> None:
    assert lg.Moment(fraction, 3, math.inf).fraction == fraction


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lg.Plan(evaluations=-3, search=print), "Plan.evaluations"),
        (lambda: lg.Plan(evaluations=1.5, search=print), "Plan.evaluations"),
        (lambda: lg.Plan(evaluations=1, search=3), "Plan.search"),
        (lambda: lg.Plan(evaluations=1, search=print, nothing=3), "Plan.nothing"),
        (lambda: lg.Inapplicable(3), "Inapplicable.reason"),
        (lambda: lg.Inapplicable("two\nlines"), "Inapplicable.reason"),
        (lambda: lg.Inapplicable(""), "Inapplicable.reason"),
    ],
)
def test_plans_and_reasons_are_checked_where_they_are_made(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(lg.AttackError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Falling:
    """An attack without the base class whose second fraction is below the first."""

    requires: Any = frozenset({"batch_size"})

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        def search(seeds: lg.Seeds, progress: Progress) -> lg.Reconstruction:
            progress(lg.Moment(0.5))
            progress(lg.Moment(0.3))
            raise AssertionError

        return lg.Plan(evaluations=1, search=search)


def test_a_fraction_never_falls(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    with pytest.raises(lg.AttackError, match=r"never fall; found 0\.3 after 0\.5"):
        planned(Falling(), observation).run(lg.Seeds(0))
    auto = attacks.Auto(attacks=(Falling(), attacks.IDLG(steps=3)))
    found = auto(observation, seeds=lg.Seeds(0))
    assert any("Falling failed" in note for note in found.notes)
    assert "IDLG" in found.notes[0]


def test_what_a_watcher_draws_leaves_a_plain_search_alone(observe: Observe) -> None:
    class Drawing:
        requires = frozenset({"batch_size"})

        def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
            return lg.Plan(evaluations=1, search=self.search)

        def search(self, seeds: lg.Seeds, progress: Progress) -> lg.Reconstruction:
            progress(lg.Moment(0.5))
            drawn = float(torch.rand(())) + np.random.rand() + random.random()
            return lg.Reconstruction(
                inputs=torch.full((1, 1, 8, 8), drawn),
                targets=None,
                found=torch.ones(1, dtype=torch.bool),
                status=lg.Status.UNCONVERGED,
            )

    def watch(moment: lg.Moment) -> None:
        torch.rand(3), np.random.rand(3), random.random()

    plan = planned(Drawing(), observe(sigmoid_cnn(), images(1)))
    guesses = []
    for progress in (silent, watch):
        with lg.Seeds(0).alone("test"):
            guesses.append(plan.run(lg.Seeds(0), progress).inputs)
    assert torch.equal(*guesses)


def test_seeded_generators_are_put_back() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    for generators in (lg.Seeds(0).alone("test"), isolate_draws()):
        with generators:
            torch.rand(3), np.random.randn(3), random.random()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert before[2] == random.getstate()
