"""The adversary's simulation is the client's training for every protocol. It never uses the private batch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from conftest import client, images, mlp, refusal, sigmoid_cnn
from support.attack_cases import ATTACK_CASES
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.analytic.label_recovery import recover_labels
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator


def normalized_cnn() -> nn.Module:
    """Return a convolution with BatchNorm in train mode, which uses the batch's own statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 4)
        ).train()


MODELS = {"mlp": lambda: mlp().eval(), "batchnorm in train mode": normalized_cnn}
TRAININGS: dict[str, lg.LocalTraining] = {
    "fedsgd": lg.FedSGD(),
    "one step": lg.FedAvg(learning_rate=0.1),
    "epochs": lg.FedAvg(epochs=3, learning_rate=0.1),
    "minibatches": lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1),
    "momentum and decay": lg.FedAvg(
        epochs=2, minibatch=2, learning_rate=0.1, momentum=0.9, weight_decay=0.01, decay=0.5
    ),
    "shuffled": lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1, shuffle=True),
}
THREATS: dict[str, Any] = {
    "server": lg.Server,
    "aggregator": lambda **granted: lg.Aggregator(clients=3, **granted),
    "several rounds": lambda **granted: lg.SeveralRounds(rounds=3, rate=0.1, **granted),
}
DEFENSES: dict[str, lg.Defense | None] = {"none": None, "top k": defenses.TopK(sparsity=0.5)}
EVERY = [*itertools.product(MODELS, TRAININGS, THREATS)]


@pytest.mark.parametrize(("model", "training", "threat"), EVERY)
def test_the_simulated_update_of_the_truth_is_the_client_s(
    model: str, training: str, threat: str
) -> None:
    batch = images(6)
    owner = client(MODELS[model](), training=TRAININGS[training])
    adversary = THREATS[threat](labels=True, order=True)
    seen = adversary.observe(owner, batch, seeds=lg.Seeds(0))
    assert seen.knowledge.labels is not None
    assert torch.equal(seen.knowledge.labels, batch.targets)
    simulated = simulator(seen, create_graph=False)(batch.inputs, batch.targets)
    assert float(relative_residual(simulated, seen.update.tensors)) < 2e-6


@pytest.mark.parametrize("training", ["epochs", "shuffled"])
def test_another_order_gives_another_update_where_order_matters(training: str) -> None:
    batch = images(6)
    owner = client(mlp(), training=TRAININGS[training])
    seen = lg.Aggregator(clients=3, labels=True, order=True).observe(
        owner, batch, seeds=lg.Seeds(0)
    )
    turned = simulator(seen, create_graph=False)(batch.inputs.roll(1, 0), batch.targets.roll(1, 0))
    assert float(relative_residual(turned, seen.update.tensors)) > 1e-4


def test_examples_that_never_meet_aggregate_to_one_gradient() -> None:
    batch, seeds = images(6), lg.Seeds(0)
    adversary = lg.Aggregator(clients=3, labels=True)
    apart = adversary.observe(client(mlp().eval()), batch, seeds=seeds)
    assert apart.training == lg.FedSGD()
    met = adversary.observe(client(normalized_cnn()), batch, seeds=seeds)
    assert isinstance(met.training, Aggregated)


MATCHING = attacks.VanishingPrior(steps=3)
OF_SEVERAL_STEPS = [MATCHING, *(case.attack for case in ATTACK_CASES if case.training is not None)]


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("attack", OF_SEVERAL_STEPS, ids=lambda attack: type(attack).__name__)
def test_what_happens_to_the_truth_afterwards_changes_no_reconstruction(
    attack: lg.Attack, threat: str
) -> None:
    batch, guesses = images(6), []
    owner = client(sigmoid_cnn(), training=TRAININGS["shuffled"])
    seen = THREATS[threat](labels=True).observe(owner, batch, seeds=lg.Seeds(0))
    if refusal(attack, seen) is not None:
        pytest.skip("inapplicable")
    for poison in (False, True):
        if poison:
            batch.inputs.fill_(math.nan)
            batch.targets.fill_(0)
        guesses.append(attack(seen, seeds=lg.Seeds(1)))
    assert torch.equal(guesses[0].inputs, guesses[1].inputs)
    assert torch.isfinite(guesses[1].inputs).all()
    assert guesses[0].residual == guesses[1].residual


@pytest.mark.parametrize("threat", THREATS)
def test_steps_that_are_not_told_are_not_simulated(threat: str) -> None:
    batch = images(6)
    adversary = THREATS[threat](labels=True, hyperparameters=False)
    guesses = []
    for training in (TRAININGS["shuffled"], lg.FedAvg(epochs=3, minibatch=6, learning_rate=0.1)):
        owner = client(sigmoid_cnn(), training=training)
        seen = adversary.observe(owner, batch, seeds=lg.Seeds(0))
        assert "hyperparameters" not in seen.knowledge.granted()
        with pytest.raises(lg.KnowledgeError, match="withholds the local training"):
            simulator(seen, create_graph=False)(batch.inputs, batch.targets)
        for attack in (MATCHING, attacks.CorrectedSurrogate(), attacks.OrderInvariant()):
            assert "told" in (reason := refusal(attack, seen) or "") or "hyper" in reason
        surrogate = attacks.SurrogateModel(attack=MATCHING, stages=2)
        guess = surrogate(seen, seeds=lg.Seeds(1))
        assert guess.status is lg.Status.UNCONVERGED
        assert "not known" in guess.message
        assert 0 < (guess.residual or 0) <= 1
        guesses.append(repr(seen.training))
    assert guesses[0] == guesses[1]  # The two local trainings cannot be distinguished.


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("training", ["epochs", "minibatches"])
def test_labels_are_read_from_local_steps_whoever_sees_them(training: str, threat: str) -> None:
    batch = lg.Batch(images(6).inputs, torch.tensor([0, 0, 0, 2, 2, 3]))
    owner = client(mlp().eval(), training=TRAININGS[training])
    seen = THREATS[threat]().observe(owner, batch, seeds=lg.Seeds(0))
    found = recover_labels(seen, seeds=lg.Seeds(0))
    assert found.counts is not None
    assert found.counts.tolist() == [3, 0, 2, 1]


def test_that_one_gradient_is_shared_is_always_told() -> None:
    seen = lg.Server(hyperparameters=False).observe(client(mlp()), images(2), seeds=lg.Seeds(0))
    assert seen.training == lg.FedSGD()


@pytest.mark.parametrize("threat", THREATS)
def test_no_attack_can_tell_in_which_order_the_client_holds_its_batch(threat: str) -> None:
    """If each step uses the whole batch, its order does not change the update or the reconstruction."""
    batch = images(6)
    turned = lg.Batch(batch.inputs.roll(1, 0), batch.targets.roll(1, 0))
    owner = client(sigmoid_cnn().double(), training=lg.FedAvg(epochs=2, learning_rate=0.1))
    guesses = []
    for held in (batch, turned):
        held = lg.Batch(held.inputs.double(), held.targets)
        seen = THREATS[threat]().observe(owner, held, seeds=lg.Seeds(0))
        attack = attacks.InvertingGradients(steps=2)
        guesses.append((attack(seen, seeds=lg.Seeds(1)), seen.update.tensors))
    same = float(relative_residual(guesses[0][1], guesses[1][1])) < 1e-12
    assert same == (threat != "aggregator")  # The order decides which client holds which example.
    if same:
        assert torch.equal(guesses[0][0].targets, guesses[1][0].targets)
        assert torch.allclose(guesses[0][0].inputs, guesses[1][0].inputs, atol=1e-6)
