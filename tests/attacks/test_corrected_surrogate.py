"""The corrected surrogate: it explains the true local steps at the cost of one gradient a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, planned, psnr, refusal, sigmoid_cnn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.attacks import corrected_surrogate
from leakgauge.inversion import Candidate, GeometricSchedule, InRange, Smoothness, Window

Observe = Callable[..., lg.Observation]
STEPS = lg.FedAvg(epochs=4, minibatch=1, learning_rate=0.01, shuffle=True)
CHEAP = attacks.VanishingPrior(steps=25, smoothness=1e-3, remains=1e-3)


def test_it_explains_what_no_single_gradient_does(observe: Observe) -> None:
    batch = images(2)
    seen = observe(sigmoid_cnn(), batch, training=STEPS, labels=True, order=True)
    alone = attacks.SurrogateModel(attack=CHEAP, stages=4)(seen, seeds=lg.Seeds(0))
    guess = attacks.CorrectedSurrogate(attack=CHEAP, stages=8)(seen, seeds=lg.Seeds(0))
    assert alone.residual is not None
    assert guess.residual is not None
    assert guess.residual < 0.05 * alone.residual
    assert float(psnr(batch.inputs, guess.inputs).min()) > 40
    assert float(psnr(batch.inputs, alone.inputs).min()) < 20


def test_without_the_order_it_explains_more_than_one_gradient(observe: Observe) -> None:
    seen = observe(sigmoid_cnn(), images(2), training=STEPS, labels=True)
    guess = attacks.CorrectedSurrogate(attack=CHEAP, stages=5)(seen, seeds=lg.Seeds(0))
    misfits = [snapshot.objective for snapshot in guess.trajectory]
    assert min(misfits) < 0.6 * misfits[0]


def test_the_truth_is_a_fixed_point(observe: Observe) -> None:
    batch = images(2)
    seen = observe(sigmoid_cnn(), batch, training=STEPS, labels=True, order=True)
    start = corrected_surrogate
    coarse = start.interpolate(seen, 0.5)
    true = start.averaged_simulator(seen, 1, lg.Seeds(0))
    goal = start.corrected(
        seen, coarse, true(batch.inputs, batch.targets), batch.inputs, batch.targets
    )
    gradient = start.simulator(coarse, create_graph=False)(batch.inputs, batch.targets)
    for name, tensor in goal.update.tensors.items():
        assert torch.allclose(tensor, gradient[name], atol=1e-5)


def test_orders_are_averaged_only_where_they_matter_and_are_not_known(observe: Observe) -> None:
    attack = attacks.CorrectedSurrogate(orders=3)
    for training, granted, count in (
        (STEPS, False, 3),
        (STEPS, True, 1),
        (lg.FedAvg(epochs=2), False, 1),
    ):
        seen = observe(mlp(), images(4), training=training, order=granted)
        assert attack.count_orders(seen, training) == count


def test_the_guess_of_the_best_stage_is_returned_with_the_trajectory(observe: Observe) -> None:
    seen = observe(sigmoid_cnn(), images(2), training=STEPS, labels=True, order=True)
    attack = attacks.CorrectedSurrogate(attack=CHEAP, stages=5)
    guess = attack(seen, seeds=lg.Seeds(0))
    assert len(guess.trajectory) == 5
    best = min(guess.trajectory, key=lambda snapshot: snapshot.objective)
    assert torch.equal(best.inputs, guess.inputs)
    assert guess.residual == pytest.approx(best.objective, rel=1e-4)
    assert guess.cost.evaluations <= planned(attack, seen).evaluations


def test_it_is_for_local_steps(observe: Observe) -> None:
    attack = attacks.CorrectedSurrogate()
    assert "one gradient" in (refusal(attack, observe(mlp(), images(2))) or "")


def test_it_reads_an_aggregate_of_local_steps() -> None:
    owner = client(sigmoid_cnn(), training=lg.FedAvg(epochs=4, learning_rate=0.02))
    seen = lg.Aggregator(clients=2, labels=True, order=True).observe(
        owner, images(2), seeds=lg.Seeds(0)
    )
    guess = attacks.CorrectedSurrogate(attack=CHEAP, stages=8)(seen, seeds=lg.Seeds(0))
    ignored = attacks.OneGradient(attack=CHEAP)(seen, seeds=lg.Seeds(0))
    assert guess.residual is not None
    assert ignored.residual is not None
    assert guess.residual < 0.05 * ignored.residual


def test_a_window_is_a_part_of_the_whole() -> None:
    objective = InRange() + GeometricSchedule(1.0, 1e-4) * Smoothness()
    half = Window(objective, 0.5, 1.0)
    assert half.parts(0.0)[1][0] == pytest.approx(1e-2)
    assert half.parts(1.0) == objective.parts(1.0)
    unit = images(1).inputs * 2
    candidate = Candidate(unit, torch.zeros(1).long(), {}, {})
    assert torch.allclose(half(candidate), objective(candidate))
