"""Every attack can be stopped at any moment, and can be watched without a change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from conftest import client, images, mlp, sigmoid_cnn
from torch import Tensor, nn
from zoo.attacks import LOCAL, RAIDS, Raid

import leakgauge as lg
from leakgauge.core import CERTIFIED_WITHIN, CONVERGED_WITHIN
from leakgauge.inversion.search import engine

SEEDS = lg.Seeds(3)


def transformer() -> nn.Module:
    options = {"patch": 2, "dim": 24, "heads": 2, "style": "plain"}
    return lg.models.build(lg.models.vit, lg.ImageDomain(1, 8, 8), 4, **options)


def dropping() -> nn.Module:
    return nn.Sequential(mlp(), nn.Dropout(0.2)).train()


class Restless(nn.Module):
    """A network whose forward pass draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs)
        return scores + 0.01 * torch.randn_like(scores)


def observed(raid: Raid, model: nn.Module, **granted: bool) -> lg.Observation:
    owner = client(model, classes=4, defense=raid.defense, training=raid.training or lg.FedSGD())
    server = lg.Server(defense=raid.defense is not None, **granted)
    return server.observe(owner, images(raid.counts[-1]), seeds=lg.Seeds(5))


@cache
def planned(name: str) -> tuple[lg.Observation, lg.Plan]:
    """The raid on the first network that it can attack."""
    reasons = []
    for network in (mlp, sigmoid_cnn, transformer, dropping):
        observation = observed(RAIDS[name], network())
        plan = RAIDS[name].attack.plan(observation)
        if isinstance(plan, lg.Plan):
            return observation, plan
        reasons.append(plan.reason)
    pytest.fail(f"{name} runs on no network: {reasons}")


def stopped(plan: lg.Plan, at: Callable[[lg.Moment], bool]) -> lg.Reconstruction:
    """The result of a run that is stopped at its first moment of this kind."""

    def watch(moment: lg.Moment) -> None:
        if at(moment):
            raise lg.StopAttack

    return plan.run(SEEDS, watch)


def check(observation: lg.Observation, plan: lg.Plan, found: lg.Reconstruction) -> None:
    assert found.inputs.shape == (observation.batch_size, 1, 8, 8)
    assert found.inputs.isfinite().all()
    assert found.found.shape == (observation.batch_size,)
    assert found.targets is None or found.targets.shape == (observation.batch_size,)
    # Closed forms verify candidates, whose number shows in the search alone.
    assert found.cost.evaluations <= plan.evaluations + 64
    assert "stopped at" in found.message
    allowed = {lg.Status.CERTIFIED: CERTIFIED_WITHIN, lg.Status.CONVERGED: CONVERGED_WITHIN}
    if found.status in allowed:
        assert found.residual is not None
        assert found.residual <= allowed[found.status]


@pytest.mark.parametrize("name", RAIDS)
def test_stopped_at_the_first_moment_it_returns_what_there_is(name: str) -> None:
    observation, plan = planned(name)
    check(observation, plan, stopped(plan, lambda moment: True))


@pytest.mark.parametrize("name", RAIDS)
def test_stopped_with_a_best_it_returns_that(name: str) -> None:
    observation, plan = planned(name)
    check(observation, plan, stopped(plan, lambda moment: moment.best is not None))


@pytest.mark.parametrize("name", RAIDS)
def test_a_watcher_that_never_stops_changes_nothing(name: str) -> None:
    _, plan = planned(name)
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
    # What is told last is what is returned.
    assert torch.equal(asked[-1].inputs, watched.inputs)
    assert asked[-1].status is watched.status


@pytest.mark.parametrize("name", RAIDS)
def test_a_run_checks_nothing_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = planned(name)

    def again(*_: object) -> None:
        pytest.fail("checked when it was planned")

    monkeypatch.setattr(lg.BaseAttack, "plan", again)
    monkeypatch.setattr(engine, "unrunnable", again)
    stopped(plan, lambda moment: moment.fraction > 0.6)


@pytest.mark.parametrize(
    "attack",
    [
        lg.attacks.OneGradient(attack=lg.attacks.InvertingGradients(steps=3, trials=2)),
        lg.attacks.SurrogateModel(attack=lg.attacks.VanishingPrior(steps=3), stages=2),
    ],
    ids=["trials", "stages"],
)
def test_what_a_watcher_draws_leaves_the_search_alone(attack: lg.Attack) -> None:
    """So does the best that it asks for, which is judged on a model that draws, too."""
    raid = Raid(attack, training=LOCAL)
    plan = attack.plan(observed(raid, Restless(), labels=True))
    assert isinstance(plan, lg.Plan)

    def watch(moment: lg.Moment) -> None:
        torch.rand(3)
        if moment.best is not None:
            moment.best()

    alone, watched = plan.run(SEEDS), plan.run(SEEDS, watch)
    assert torch.equal(alone.inputs, watched.inputs)
    assert alone.residual == watched.residual
