"""Every closed-form attack looks at the model once, reports its progress, and can be stopped at each report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from conftest import images, mlp, planned, sigmoid_cnn
from support.attack_cases import transformer
from torch import nn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.analytic import chain, hidden, last_layer, linear, patch_embedding
from leakgauge.core import Progress

Observe = Callable[..., lg.Observation]


def unbiased_cnn() -> nn.Module:
    """Return two convolutions and a linear layer without a bias, for which R-GAP tries several starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(6, 4, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(64, 4, bias=False),
        )


def pooled_cnn() -> nn.Module:
    """Return a convolution, ReLU, a max pool and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(24 * 16, 4)).eval()


@dataclass(frozen=True)
class Case:
    """An attack and an observation to run it on.

    Args:
        attack: The attack.
        model: Builds the network.
        batch: Batch size.
        looks: The module and the name of the function that looks at the model.
    """

    attack: lg.Attack
    model: Callable[[], nn.Module]
    batch: int
    looks: tuple[object, str]


CASES = (
    Case(attacks.LinearLayer(), mlp, 4, (linear, "first_linear")),
    Case(attacks.CocktailParty(), mlp, 4, (linear, "first_linear")),
    Case(
        attacks.CocktailParty(optimizer="adam", steps=300, rounds=1),
        mlp,
        3,
        (linear, "first_linear"),
    ),
    Case(attacks.Spear(rounds=20), lambda: mlp(width=48), 4, (linear, "first_linear")),
    Case(attacks.SpearPlusPlus(rounds=20), lambda: mlp(width=48), 4, (linear, "first_linear")),
    Case(attacks.RGAP(), unbiased_cnn, 1, (chain, "_calls")),
    Case(attacks.Peeling(rough=10, steps=10), pooled_cnn, 1, (chain, "_calls")),
    Case(attacks.April(equations="embedding"), transformer, 1, (patch_embedding, "_probe")),
    Case(attacks.FeatureInversion(steps=10), sigmoid_cnn, 2, (hidden, "first_linear")),
    Case(
        attacks.SoftmaxUnmixing(warm=1, iterations=5, stages=1),
        sigmoid_cnn,
        2,
        (last_layer, "link_of"),
    ),
)


@pytest.fixture(params=CASES, ids=lambda case: type(case.attack).__name__)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def ready(case: Case, observe: Observe) -> lg.Plan:
    return planned(case.attack, observe(case.model(), images(case.batch)))


def test_a_plan_and_its_runs_look_at_the_model_once(
    case: Case, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = case.looks
    looked, look = [], getattr(module, name)

    def counting(*arguments: object) -> object:
        looked.append(name)
        return look(*arguments)

    monkeypatch.setattr(module, name, counting)
    plan = ready(case, observe)
    first, second = plan.run(lg.Seeds(0)), plan.run(lg.Seeds(0))
    assert looked == [name]
    assert torch.equal(first.inputs, second.inputs), "a run must not change its plan"
    assert first.residual == second.residual


def recorder(moments: list[lg.Moment], stop: int | None = None) -> Progress:
    """Return a callback that adds every moment to `moments`, and stops the attack at moment number `stop`, from 0."""

    def watch(moment: lg.Moment) -> None:
        moments.append(moment)
        if len(moments) - 1 == stop:
            raise lg.StopAttack

    return watch


def test_moments_only_grow(case: Case, observe: Observe) -> None:
    moments: list[lg.Moment] = []
    ready(case, observe).run(lg.Seeds(0), recorder(moments))
    assert len(moments) > 1
    fractions = [moment.fraction for moment in moments]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] == 1
    spent = [moment.evaluations for moment in moments]
    assert spent == sorted(spent)
    having = [moment.best is not None for moment in moments]
    assert having == sorted(having), (
        "an attack that reported a best reconstruction must go on to report one"
    )


def test_an_attack_that_is_stopped_returns_its_best(case: Case, observe: Observe) -> None:
    moments: list[lg.Moment] = []
    plan = ready(case, observe)
    plan.run(lg.Seeds(0), recorder(moments))
    for stop in sorted({0, len(moments) // 2, len(moments) - 2}):
        before: list[lg.Moment] = []
        found = plan.run(lg.Seeds(0), recorder(before, stop))
        assert f"stopped at {before[-1].fraction:.0%}" in found.message
        assert len(found.inputs) == case.batch
        assert found.cost.evaluations == before[-1].evaluations
        if before[-1].best is not None:
            assert found.found.any()
