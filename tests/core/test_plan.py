"""A plan runs, passes its moments to a callback, and can be stopped at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from conftest import images, mlp, planned, sigmoid_cnn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.core import Progress, scale_progress
from leakgauge.core.verdicts import report_nothing_found

Observe = Callable[..., lg.Observation]


def stopping(after: int) -> tuple[list[lg.Moment], Progress]:
    """Return a callback that stops an attack at its moment number `after`, and the list of its moments."""
    moments: list[lg.Moment] = []

    def watch(moment: lg.Moment) -> None:
        moments.append(moment)
        if len(moments) > after:
            raise lg.StopAttack

    return moments, watch


@dataclass(frozen=True)
class Slow(lg.BaseAttack):
    """An attack with three moments. The last two have a reconstruction that claims too much."""

    requires = frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        return lg.Plan(evaluations=3, search=partial(self.search, observation))

    def search(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: Progress
    ) -> lg.Reconstruction:
        def guess(value: float) -> lg.Reconstruction:
            return lg.Reconstruction(
                inputs=torch.full((observation.batch_size, 1, 8, 8), value),
                targets=None,
                found=torch.ones(observation.batch_size, dtype=torch.bool),
                status=lg.Status.CERTIFIED,
                residual=0.5,
            )

        progress(lg.Moment(0.1, 1))
        progress(lg.Moment(0.4, 2, 3.0, partial(guess, 0.2)))
        progress(lg.Moment(0.9, 3, 2.0, partial(guess, 0.3)))
        return guess(0.4)


def test_a_run_that_is_stopped_returns_the_best_so_far(observe: Observe) -> None:
    observation = observe(mlp(), images(2))
    for after, value in ((1, 0.2), (2, 0.3)):
        moments, watch = stopping(after)
        found = planned(Slow(), observation).run(lg.Seeds(0), watch)
        assert found.inputs.unique().tolist() == pytest.approx([value])
        assert found.status is lg.Status.UNCONVERGED, "a status is bounded where it is stopped too"
        assert f"stopped at {moments[-1].fraction:.0%}" in found.message
        assert found.cost.evaluations == moments[-1].evaluations
        assert found.cost.seconds > 0


def test_a_run_that_is_stopped_before_it_has_anything_says_so(observe: Observe) -> None:
    _, watch = stopping(0)
    found = planned(Slow(), observe(mlp(), images(2))).run(lg.Seeds(0), watch)
    assert found.status is lg.Status.UNCONVERGED
    assert not found.found.any()
    assert "no reconstruction yet" in found.message
    assert "stopped at 10%" in found.message


def test_moments_tell_objective_evaluations_and_the_best(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    moments, watch = stopping(1000)
    found = attacks.InvertingGradients(steps=30)(observation, seeds=lg.Seeds(0), progress=watch)
    objectives = [moment.objective for moment in moments if moment.objective is not None]
    assert sorted({moment.evaluations for moment in moments}) == list(range(1, 31))
    assert objectives == sorted(objectives, reverse=True)  # type: ignore[type-var]
    assert objectives[-1] == pytest.approx(min(found.objectives))
    last = moments[-1].best
    assert last is not None
    assert torch.equal(last().inputs, found.inputs)


def test_a_stopped_search_is_that_of_fewer_steps(observe: Observe) -> None:
    """The result is the best iterate so far by the attacker's objective, judged as at the end of a search."""
    observation = observe(sigmoid_cnn(), images(1))
    _, watch = stopping(11)
    attack = attacks.InvertingGradients(steps=40)
    stopped = attack(observation, seeds=lg.Seeds(0), progress=watch)
    whole = attack(observation, seeds=lg.Seeds(0))
    assert stopped.cost.evaluations == 12
    assert stopped.residual is not None
    assert whole.residual is not None
    assert min(stopped.objectives) >= min(whole.objectives)
    assert stopped.status is lg.Status.UNCONVERGED


def test_auto_stopped_in_its_second_attack_returns_the_better_of_both(observe: Observe) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    first, second = attacks.IDLG(steps=20), attacks.InvertingGradients(steps=200)
    before = first(observation, seeds=lg.Seeds(0).child("IDLG"))
    moments, watch = stopping(before.cost.evaluations + 3)
    found = attacks.Auto(attacks=(first, second))(observation, seeds=lg.Seeds(0), progress=watch)
    assert found.residual == before.residual
    assert torch.equal(found.inputs, before.inputs)
    assert found.cost.evaluations == moments[-1].evaluations
    fractions = [moment.fraction for moment in moments]
    assert fractions == sorted(fractions)


def test_a_part_without_a_guess_keeps_the_one_before(observe: Observe) -> None:
    moments: list[lg.Moment] = []
    before = report_nothing_found(observe(mlp(), images(1)), lg.Status.UNCONVERGED, "before")
    best = lambda: before  # noqa: E731
    part = scale_progress(moments.append, 0.5, 0.25, evaluations=10, best=best)
    part(lg.Moment(0.4, 2, 1.5))
    assert moments[0].fraction == pytest.approx(0.6)
    assert (moments[0].evaluations, moments[0].objective) == (12, 1.5)
    assert moments[0].best is not None
    assert moments[0].best().message == "before"


def test_a_progress_that_is_no_moment_is_told(observe: Observe) -> None:
    @dataclass(frozen=True)
    class Old(Slow):
        def search(self, observation, seeds, progress):  # type: ignore[no-untyped-def]
            progress(0.5)

    with pytest.raises(lg.AttackError, match="expected a Moment; found an object of type float"):
        Old()(observe(mlp(), images(1)), seeds=lg.Seeds(0))


def test_an_attack_that_cannot_run_says_why_by_its_status(observe: Observe) -> None:
    found = attacks.IDLG()(observe(sigmoid_cnn(), images(2)), seeds=lg.Seeds(0))
    assert found.status is lg.Status.INAPPLICABLE
    assert "batch 2 > 1" in found.message
