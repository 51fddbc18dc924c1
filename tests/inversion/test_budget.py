"""A search spends no more evaluations than planned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import images, mlp, planned, sigmoid_cnn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.inversion import L2, LBFGS, GradientMatching, Known, SignedAdam
from leakgauge.inversion.search.composition import count_halved

Observe = Callable[..., lg.Observation]


@pytest.mark.parametrize("steps", [1, 3, 5, 20])
@pytest.mark.parametrize("restarts", [1, 3, 4])
def test_halving_spends_what_is_planned(observe: Observe, restarts: int, steps: int) -> None:
    attack = GradientMatching(
        objective=L2(),
        labels=Known(),
        descent=SignedAdam(steps=steps),
        restarts=restarts,
        halving=True,
    )
    observation = observe(mlp(), images(2), labels=True)
    plan = planned(attack, observation)
    assert (
        plan.run(lg.Seeds(0)).cost.evaluations == plan.evaluations == count_halved(restarts, steps)
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("restarts", [1, 4])
def test_a_line_search_that_goes_on_is_planned(observe: Observe, restarts: int, steps: int) -> None:
    observation = observe(sigmoid_cnn(), images(1))
    matching = GradientMatching(
        objective=L2(),
        labels=Known(),
        descent=LBFGS(steps=steps, line_search="strong_wolfe"),
        restarts=restarts,
        halving=restarts > 1,
    )
    for attack in (attacks.SmoothedMatching(steps=steps, restarts=restarts), matching):
        if attack is matching:
            observation = observe(sigmoid_cnn(), images(1), labels=True)
        plan = planned(attack, observation)
        for seed in range(3):
            assert plan.run(lg.Seeds(seed)).cost.evaluations <= plan.evaluations
