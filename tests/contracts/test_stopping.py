"""Every attack can be stopped at any moment, and watching it does not change its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from conftest import client, domain_of, mlp, planned
from support.attack_cases import ATTACK_CASES, LOCAL, AttackCase
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.core import CERTIFIED_WITHIN, CONVERGED_WITHIN
from leakgauge.inversion.search import engine

SEEDS = lg.Seeds(3)


class Restless(nn.Module):
    """A network whose forward pass draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs)
        return scores + 0.01 * torch.randn_like(scores)


def observed(case: AttackCase, model: nn.Module, **granted: bool) -> lg.Observation:
    batch = case.batch(case.batch_sizes[-1])
    training = case.training or lg.FedSGD()
    owner = client(
        model, classes=4, defense=case.defense, training=training, domain=domain_of(batch)
    )
    server = lg.Server(defense=case.defense is not None, **granted)
    return server.observe(owner, batch, seeds=lg.Seeds(5))


@cache
def ready(case: AttackCase) -> tuple[lg.Observation, lg.Plan]:
    """Return an observation that the attack is made for, and the plan of the attack on it."""
    network = mlp if case.network is None else case.network
    observation = observed(case, network())
    return observation, planned(case.attack, observation)


def stopped(plan: lg.Plan, at: Callable[[lg.Moment], bool]) -> lg.Reconstruction:
    """Return the result of a run that is stopped at the first moment for which `at` is true."""

    def watch(moment: lg.Moment) -> None:
        if at(moment):
            raise lg.StopAttack

    return plan.run(SEEDS, watch)


def check(observation: lg.Observation, plan: lg.Plan, found: lg.Reconstruction) -> None:
    assert found.inputs.shape == (observation.batch_size, *observation.domain.shape)
    assert found.inputs.isfinite().all()
    assert found.found.shape == (observation.batch_size,)
    assert found.targets is None or found.targets.shape == (observation.batch_size,)
    assert found.cost.evaluations <= plan.evaluations
    assert "stopped at" in found.message
    allowed = {lg.Status.CERTIFIED: CERTIFIED_WITHIN, lg.Status.CONVERGED: CONVERGED_WITHIN}
    if found.status in allowed:
        assert found.residual is not None
        assert found.residual <= allowed[found.status]


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
def test_stopped_at_the_first_moment_it_returns_what_there_is(case: AttackCase) -> None:
    observation, plan = ready(case)
    check(observation, plan, stopped(plan, lambda moment: True))


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
def test_stopped_with_a_best_it_returns_that(case: AttackCase) -> None:
    observation, plan = ready(case)
    check(observation, plan, stopped(plan, lambda moment: moment.best is not None))


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
def test_a_watcher_that_never_stops_changes_nothing(case: AttackCase) -> None:
    _, plan = ready(case)
    alone = plan.run(SEEDS)
    asked: list[lg.Reconstruction] = []

    def watch(moment: lg.Moment) -> None:
        if moment.best is not None:
            asked.append(moment.best())

    watched = plan.run(SEEDS, watch)
    assert torch.equal(alone.inputs, watched.inputs)
    assert (alone.status, alone.residual, alone.objectives, alone.notes, alone.message) == (
        watched.status,
        watched.residual,
        watched.objectives,
        watched.notes,
        watched.message,
    )
    assert alone.cost.evaluations == watched.cost.evaluations
    # The last reported best is the returned reconstruction.
    assert torch.equal(asked[-1].inputs, watched.inputs)
    assert asked[-1].status is watched.status


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
def test_objective_and_cost_of_a_moment_are_those_of_its_best(case: AttackCase) -> None:
    _, plan = ready(case)

    def watch(moment: lg.Moment) -> None:
        if moment.best is None:
            return
        found = moment.best()
        assert found.cost.evaluations == moment.evaluations
        if moment.objective is not None and found.objectives:
            assert moment.objective == found.objectives[found.restart]

    plan.run(SEEDS, watch)


@pytest.mark.parametrize("case", ATTACK_CASES, ids=lambda case: case.name)
def test_a_run_checks_nothing_anew(case: AttackCase, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = ready(case)

    def again(*_: object) -> None:
        pytest.fail("the run must not check again what the plan checked")

    monkeypatch.setattr(lg.BaseAttack, "plan", again)
    monkeypatch.setattr(engine, "unrunnable", again)
    stopped(plan, lambda moment: moment.fraction > 0.6)


@pytest.mark.parametrize(
    "attack",
    [
        lg.attacks.OneGradient(attack=lg.attacks.InvertingGradients(steps=3, restarts=2)),
        lg.attacks.SurrogateModel(attack=lg.attacks.VanishingPrior(steps=3), stages=2),
    ],
    ids=["restarts", "stages"],
)
def test_what_a_watcher_draws_leaves_the_search_alone(attack: lg.BaseAttack) -> None:
    """The watcher asks for the best reconstruction. Its check runs a model that draws, too."""
    case = AttackCase(attack, training=LOCAL)
    plan = planned(attack, observed(case, Restless(), labels=True))

    def watch(moment: lg.Moment) -> None:
        torch.rand(3)
        if moment.best is not None:
            moment.best()

    alone, watched = plan.run(SEEDS), plan.run(SEEDS, watch)
    assert torch.equal(alone.inputs, watched.inputs)
    assert alone.residual == watched.residual
