"""Matching attacks recover labels first if labels are not granted, and say so in their notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import client, images, mlp, refusal
from torch import nn

import leakgauge as lg
from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.attacks.recipe import Labeled, label_if_needed, settle
from leakgauge.federated import FedAvg
from leakgauge.inversion import L2, LBFGS, FixedLabels, GradientMatching, Joint, Known
from leakgauge.inversion.search.engine import Ready

Observe = Callable[..., lg.Observation]
SEEDS = lg.Seeds(5)
LABELS = [0, 3, 3, 3, 1, 0]
SHORT = lg.attacks.InvertingGradients(steps=3)
ATTACKS: list[lg.Attack] = [
    SHORT,
    lg.attacks.BalancedDLG(steps=2, labels="recovered"),
    lg.attacks.SecondOrder(warm=1, iterations=2, stages=1),
    lg.attacks.SmoothedMatching(steps=3),
]


def recover(observation: lg.Observation) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the labels with which a search starts, and the notes on them."""
    plan = plan_labels(observation)
    assert isinstance(plan, LabelPlan)
    return plan.read(SEEDS)


def batch(labels: list[int]) -> lg.Batch:
    return lg.Batch(images(len(labels)).inputs, torch.tensor(labels))


def biased_network(logit: float) -> nn.Module:
    """Return a network that prefers class 2 for any input, so random probes do not stand for the batch."""
    model = mlp(classes=4)
    with torch.no_grad():
        model[-1].weight.mul_(6)
        model[-1].bias[2] += logit
    return model


def observe_local_steps(**training: object) -> lg.Observation:
    maker = replace(client(mlp(), classes=4), training=FedAvg(**training))  # type: ignore[arg-type]
    return lg.Server().observe(maker, batch(LABELS), seeds=lg.Seeds(7))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_matching_runs_with_the_labels_that_were_read(observe: Observe, attack: lg.Attack) -> None:
    observation = observe(biased_network(1.0), batch(LABELS))
    assert refusal(attack, observation) is None
    found = attack(observation, seeds=SEEDS)
    assert found.targets is not None
    assert sorted(found.targets.tolist()) == sorted(LABELS)
    assert found.notes[0].startswith("labels: tilting; ")
    assert "of 6 labels are proven by the update" in found.notes[0]


@pytest.mark.parametrize("granted", ["labels", "label_counts"])
def test_granted_labels_are_not_read(observe: Observe, granted: str) -> None:
    observation = observe(mlp(), batch(LABELS), **{granted: True})
    found = SHORT(observation, seeds=SEEDS)
    assert found.targets is not None
    assert sorted(found.targets.tolist()) == sorted(LABELS)
    assert not any(note.startswith("labels") for note in found.notes)
    matching = SHORT.matching()
    plan = label_if_needed(matching, observation)
    assert isinstance(plan, Ready)
    assert plan.matching == matching


def test_labels_that_are_optimized_are_not_read(observe: Observe) -> None:
    matching = GradientMatching(objective=L2(), labels=Joint(), descent=LBFGS(steps=1))
    plan = label_if_needed(matching, observe(mlp(), batch(LABELS)))
    assert isinstance(plan, Ready)
    assert plan.matching == matching


def test_several_local_steps_are_read_as_such() -> None:
    observation = observe_local_steps(epochs=3, minibatch=2, learning_rate=0.01)
    order = lg.attacks.OrderInvariant(attack=SHORT)
    for attack in (order, lg.attacks.SurrogateModel(attack=SHORT, stages=1)):
        found = attack(observation, seeds=SEEDS)
        assert found.targets is not None
        assert sorted(found.targets.tolist()) == sorted(LABELS)
        assert any("the mean gradient of 9 steps" in note for note in found.notes)
    once = lg.attacks.OneGradient(attack=SHORT)(observation, seeds=SEEDS)
    assert any(note.startswith("labels: tilting") for note in once.notes)


def test_where_recovery_cannot_the_bias_is_read_and_said() -> None:
    margin = replace(client(mlp(), classes=4), loss=nn.functional.multi_margin_loss)
    observation = lg.Server().observe(margin, batch(LABELS), seeds=lg.Seeds(7))
    labels, notes = recover(observation)
    assert len(labels) == len(LABELS)
    assert "last layer's bias alone, since the loss is neither cross-entropy" in notes[0]


def test_without_any_way_the_attack_says_why(observe: Observe) -> None:
    blind = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4, bias=False), nn.Tanh())
    observation = observe(blind, batch(LABELS))
    plan = plan_labels(observation)
    assert isinstance(plan, lg.Inapplicable)
    assert plan.reason == refusal(SHORT, observation)
    assert "output is not that of a linear layer" in plan.reason


def test_labels_read_repeat_and_are_not_the_truths_order(observe: Observe) -> None:
    observation = observe(mlp(), batch(LABELS))
    first, second = (recover(observation)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.tolist() == sorted(LABELS)
    plan = label_if_needed(SHORT.matching(), observation)
    assert isinstance(plan, Labeled)
    ready, _ = settle(plan, SEEDS)
    assert isinstance(ready.labels, FixedLabels)
    assert isinstance(SHORT.matching().labels, Known)
