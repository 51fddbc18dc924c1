"""A model that changes as it runs is detected, and no result on it is called converged or certified."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import images, mlp, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import BaseAttack

TOLD = "the model changes as it runs"
CALLS = [0.0]


class Scaled(nn.Module):
    """A network whose output is multiplied by `scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp()
        self.deep = {"calls": [1.0]}
        self.box = [torch.ones(1)]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x) * self.scale(x)
        return output

    def scale(self, x: Tensor) -> float:
        """Return the factor of the output. Subclasses return different values in different calls."""
        return 1.0


class ByNumpy(Scaled):
    def scale(self, x: Tensor) -> float:
        return float(np.random.uniform(1, 2))


class ByPython(Scaled):
    def scale(self, x: Tensor) -> float:
        return random.uniform(1, 2)


class ByGlobal(Scaled):
    def scale(self, x: Tensor) -> float:
        CALLS[0] += 1
        return CALLS[0]


class ByClass(Scaled):
    calls: ClassVar[float] = 0.0

    def scale(self, x: Tensor) -> float:
        type(self).calls += 1
        return self.calls


class ByDeepList(Scaled):
    def scale(self, x: Tensor) -> float:
        self.deep["calls"][0] += 1
        return self.deep["calls"][0]


class ByParameter(Scaled):
    def scale(self, x: Tensor) -> float:
        with torch.no_grad():
            self.network[1].weight.mul_(0.5)  # type: ignore[index]
        return 1.0


class ByData(Scaled):
    """A network that writes to a tensor without raising torch's count of its changes."""

    def scale(self, x: Tensor) -> float:
        self.network[1].weight.data.clamp_(-0.01, 0.01)  # type: ignore[index]
        return 1.0


class Counting(Scaled):
    """A network that changes a state that can be restored."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0.0
        self.register_buffer("seen", torch.ones(1))

    def scale(self, x: Tensor) -> float:
        self.calls += 1
        self.box[0] += 1
        self.seen *= 2
        return float(self.calls + self.box[0] + self.seen)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 4)).train()


def normalized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))


UNSTEADY: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (ByNumpy, ByPython, ByGlobal, ByClass, ByDeepList, ByParameter, ByData)
}
STEADY: dict[str, Callable[[], nn.Module]] = {
    "plain": Scaled,
    "counting": Counting,
    "dropout": dropping,
    "batch norm": lambda: normalized().train(),
    "batch norm, eval": lambda: normalized().eval(),
    "smooth": sigmoid_cnn,
}
THREATS: dict[str, Callable[[], lg.Server]] = {
    "server": lg.Server,
    "aggregator": lambda: lg.threats.Aggregator(clients=2),
    "outsider": lambda: lg.threats.Outsider(clients=2),
    "rounds": lambda: lg.threats.SeveralRounds(rounds=2),
    "neighbor": lambda: lg.threats.Neighbor(nodes=3, degree=2, listening=2),
}


def observed(model: nn.Module, *, threat: str = "server", loss: Any = None) -> lg.Observation:
    """Return an observation of a batch of four images."""
    owner = lg.Client(
        model=model,
        loss=loss or functional.cross_entropy,
        domain=lg.ImageDomain(1, 8, 8),
        classes=4,
    )
    return THREATS[threat]().observe(owner, images(4), seeds=lg.Seeds(0))


@pytest.mark.parametrize("threat", THREATS)
def test_changes_that_cannot_be_undone_are_told(threat: str) -> None:
    for name, make in UNSTEADY.items():
        told = observed(make(), threat=threat).unsteady
        assert told is not None, name
        assert told.startswith(TOLD)
        assert "\n" not in told


@pytest.mark.parametrize("make", STEADY.values(), ids=STEADY)
def test_a_model_that_computes_the_same_is_steady(make: Callable[[], nn.Module]) -> None:
    assert observed(make()).unsteady is None


def test_a_loss_that_draws_from_numpy_is_told() -> None:
    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return float(np.random.uniform(1, 2)) * functional.cross_entropy(output, targets)

    assert str(observed(mlp(), loss=loss).unsteady).startswith(TOLD)


def test_the_look_moves_no_generator() -> None:
    """An observation of a steady model does not change the random numbers that a program draws next."""
    model = dropping()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    observed(model)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


class Sure(BaseAttack):
    """An attack that claims a given status with a residual of 0."""

    def __init__(self, status: lg.Status) -> None:
        self.status = status

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.core.Progress
    ) -> lg.Reconstruction:
        return lg.Reconstruction(
            inputs=torch.zeros(observation.batch_size, *observation.domain.shape),
            targets=None,
            found=torch.ones(observation.batch_size, dtype=torch.bool),
            status=self.status,
            residual=0.0,
            notes=("first",),
        )


@pytest.mark.parametrize("status", [lg.Status.CERTIFIED, lg.Status.CONVERGED])
def test_nothing_of_an_unsteady_model_is_proven(status: lg.Status) -> None:
    found = Sure(status)(observed(ByNumpy()), seeds=lg.Seeds(0))
    assert found.status is lg.Status.UNCONVERGED
    assert found.notes[0] == "first"
    assert found.notes[1].startswith(TOLD)
    assert f"not {status}: {TOLD}" in found.message
    assert Sure(status)(observed(Counting()), seeds=lg.Seeds(0)).status is status


def test_other_statuses_stay_and_are_noted() -> None:
    found = Sure(lg.Status.DIVERGED)(observed(ByNumpy()), seeds=lg.Seeds(0))
    assert found.status is lg.Status.DIVERGED
    assert found.notes[-1].startswith(TOLD)


class OwnSure:
    """The same claim by a user's class without a base class of the library."""

    def __repr__(self) -> str:
        return "OwnSure()"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def plan(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        return Sure(lg.Status.CONVERGED).prepare(observation)


@pytest.mark.parametrize(
    "attack",
    [lg.attacks.LinearLayer(), lg.attacks.SecondOrder(warm=2, iterations=3, stages=1), OwnSure()],
    ids=repr,
)
def test_a_record_says_so(attack: lg.Attack) -> None:
    data = lg.Dataset(
        name="noise",
        inputs=torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(0)),
        targets=torch.arange(8) % 4,
        domain=lg.ImageDomain(1, 8, 8),
        classes=4,
    )
    case = lg.Case(name="random", data=data, model=ByNumpy(), attacks=[attack])
    (record,) = lg.audit(case, seed=0).cells
    assert record.status not in ("converged", "certified")
    assert sum(note.startswith(TOLD) for note in record.notes) == 1
