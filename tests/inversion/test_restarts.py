"""Many restarts at once, in the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, sigmoid_cnn
from torch import Tensor

import leakgauge as lg
from leakgauge import attacks
from leakgauge.inversion import (
    L2,
    LBFGS,
    BalancedL2,
    GeometricSchedule,
    GradientMatching,
    Known,
    SignedAdam,
    TotalVariation,
)
from leakgauge.inversion.descents.descent import Descent
from leakgauge.inversion.evaluation.batching import Restarts, batch_restarts
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.search import running
from leakgauge.inversion.simulation.simulator import in_precision

Observe = Callable[..., lg.Observation]


class TestRestartsTogether:
    """Restarts as one axis give the same result as one restart after the other."""

    @pytest.mark.parametrize(
        "descent", [SignedAdam(steps=40), LBFGS(steps=40, line_search="strong_wolfe")], ids=repr
    )
    @pytest.mark.parametrize("halving", [False, True])
    def test_one_axis_is_one_by_one(
        self, observe: Observe, monkeypatch: pytest.MonkeyPatch, descent: Descent, halving: bool
    ) -> None:
        observation = in_precision(observe(sigmoid_cnn(), images(1)), torch.float64)
        matching = GradientMatching(
            objective=BalancedL2() + GeometricSchedule(0.1, 1e-4) * TotalVariation(),
            labels=Known(),
            descent=descent,
            restarts=4,
            halving=halving,
        )
        alone = matching(observation, seeds=lg.Seeds(0))
        used: list[int] = []

        def always(
            problem: Problem, fixed: Tensor | None, count: int, planned: int
        ) -> tuple[Restarts, str]:
            used.append(count)
            return batch_restarts(problem, fixed, count), f"{count} as one axis"

        monkeypatch.setattr(running, "choose_restarts", always)
        axis = matching(observation, seeds=lg.Seeds(0))
        assert used == ([4, 2, 1, 1] if halving else [4])
        assert f"{used[0]} as one axis" in axis.notes
        assert axis.restart == alone.restart
        assert axis.cost.evaluations == alone.cost.evaluations
        assert torch.allclose(axis.inputs, alone.inputs, rtol=1e-5, atol=1e-5)

    def test_a_restart_that_is_solved_ends_them_all(
        self, observe: Observe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            running, "choose_restarts", lambda p, f, n, _: (batch_restarts(p, f, n), "axis")
        )
        matching = GradientMatching(
            objective=L2(),
            labels=Known(),
            descent=SignedAdam(steps=50),
            restarts=3,
            tolerance=1e9,
        )
        guess = matching(observe(sigmoid_cnn(), images(1)), seeds=lg.Seeds(0))
        assert guess.cost.evaluations == 3


class TestPrecision:
    def test_mixed_precision_on_a_cpu_gives_the_same_bits(self, observe: Observe) -> None:
        attack = attacks.InvertingGradients(steps=4).matching()
        seen = observe(sigmoid_cnn(), images(1))
        plain, cheaper = (
            replace(attack, precision=precision)(seen, seeds=lg.Seeds(0)).inputs
            for precision in ("observed", "mixed")
        )
        assert torch.equal(plain, cheaper)
