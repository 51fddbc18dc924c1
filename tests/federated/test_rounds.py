"""Several rounds on one batch: the operator is the client's own, and more rounds reveal more."""

from __future__ import annotations

import pytest
import torch
from conftest import client, images, mlp, sigmoid_cnn
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.inversion.simulation.simulator import Simulator, simulator
from leakgauge.threats import SeveralRounds

TRAININGS = {
    "fedsgd": lg.FedSGD(),
    "fedavg": lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.1, shuffle=True),
}
DEFENSES = {"none": None, "top_k": defenses.TopK(sparsity=0.5)}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS.keys())
@pytest.mark.parametrize("defense", DEFENSES.values(), ids=DEFENSES.keys())
def test_the_truth_explains_every_round(
    training: lg.LocalTraining, defense: lg.Defense | None
) -> None:
    batch = images(3)
    seen = SeveralRounds(rounds=3, order=True, labels=True).observe(
        client(sigmoid_cnn(), training=training, defense=defense), batch, seeds=lg.Seeds(0)
    )
    count = sum(1 for _ in seen.model.parameters())
    assert len(seen.update.tensors) == 3 * count
    simulated = simulator(seen, create_graph=False)(batch.inputs, batch.targets)
    for name, t in seen.update.tensors.items():
        assert torch.allclose(simulated[name], t, atol=1e-6)
    first, third = (
        seen.update.tensors,
        {n[:-2]: t for n, t in seen.update.tensors.items() if "@2" in n},
    )
    assert any(not torch.equal(first[name], t) for name, t in third.items())


def test_models_move_by_the_update() -> None:
    threat, model = SeveralRounds(rate=0.5), mlp()
    seen = lg.Server().observe(client(model), images(2), seeds=lg.Seeds(0))
    after = threat.moved(model, seen.update)
    for name, p in model.named_parameters():
        moved = after.get_parameter(name)
        assert torch.allclose(moved, p - 0.5 * seen.update.tensors[name])


def test_two_rounds_tell_what_one_leaves_open() -> None:
    """One gradient of 32 parameters does not determine 64 pixels. Each round adds equations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4)
        ).double()
    batch = images(1)
    batch = lg.Batch(batch.inputs.double(), batch.targets)
    ranks = []
    for rounds in (1, 2):
        threat = SeveralRounds(rounds=rounds, rate=10.0)
        seen = threat.observe(client(small), batch, seeds=lg.Seeds(0))
        simulate = simulator(seen, create_graph=True)

        def flat(unit: Tensor, simulate: Simulator = simulate) -> Tensor:
            return torch.cat([t.flatten() for t in simulate(unit, batch.targets).values()])

        jacobian = torch.autograd.functional.jacobian(flat, batch.inputs)
        ranks.append(int(torch.linalg.matrix_rank(jacobian.flatten(1), rtol=1e-9)))
    assert ranks[0] < ranks[1] <= 64


def test_the_truth_may_be_poisoned_after_the_observation() -> None:
    batch, same = images(2), images(2)
    threat, owner = SeveralRounds(rounds=2), client(sigmoid_cnn())
    attack = attacks.InvertingGradients(steps=3)
    expected = attack(threat.observe(owner, same, seeds=lg.Seeds(0)), seeds=lg.Seeds(0))
    seen = threat.observe(owner, batch, seeds=lg.Seeds(0))
    batch.inputs.fill_(float("nan"))
    batch.targets.fill_(0)
    assert torch.equal(attack(seen, seeds=lg.Seeds(0)).inputs, expected.inputs)
