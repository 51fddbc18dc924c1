"""Known features as a term of the objective, and the attack that recovers them from the last layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import images, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.analytic.last_layer import recover_features
from leakgauge.attacks.labels import plan_labels
from leakgauge.attacks.softmax_unmixing import complete_labels
from leakgauge.inversion import Candidate, FeatureMatch
from leakgauge.output import head_of

Observe = Callable[..., lg.Observation]


def with_one_label(batch: lg.Batch) -> lg.Batch:
    """Return the batch with one label for all examples."""
    return lg.Batch(batch.inputs, torch.zeros_like(batch.targets))


def term(observation: lg.Observation, features: Tensor, error: Tensor) -> FeatureMatch:
    head = head_of(observation.model, observation.domain)
    assert head is not None
    return FeatureMatch.of(observation, head.name, features, error)


class TestFeatureMatch:
    def test_it_is_zero_at_the_batch_and_only_there(self, observe: Observe) -> None:
        """The unit is the spread of the examples, so the value is large when two examples trade places."""
        batch = with_one_label(images(2))
        observation = observe(sigmoid_cnn(), batch)
        seen = recover_features(observation, torch.Generator().manual_seed(0))
        assert not isinstance(seen, lg.Inapplicable)
        match = term(observation, seen.features, torch.zeros(2))
        unit = observation.domain.to_unit(batch.inputs).double()

        def value(unit: Tensor, which: slice | None = None) -> float:
            found = Candidate(unit, batch.targets, {}, {}, which or slice(None))
            return float(match(found))

        order = [0, 1] if value(unit) < value(unit.flip(0)) else [1, 0]
        assert value(unit[order]) < 1e-4
        assert value(unit[order].flip(0)) == pytest.approx(4, rel=0.01)
        assert value(unit[order][1:], slice(1, 2)) < 1e-4
        assert value(unit[order][:1], slice(1, 2)) == pytest.approx(4, rel=0.01)

    def test_what_is_not_known_counts_for_nothing(self, observe: Observe) -> None:
        observation = observe(sigmoid_cnn(), images(2))
        features = torch.rand(2, 32, generator=torch.Generator().manual_seed(0))
        seen = recover_features(observation, torch.Generator().manual_seed(0))
        assert not isinstance(seen, lg.Inapplicable)
        features = features[:, :1].expand_as(seen.features)
        match = term(observation, features, torch.tensor([torch.inf, 0.1]))
        assert match.trust[0] == 0
        assert match.trust[1] > 0
        assert repr(match) == "FeatureMatch(1 of 2)"

    def test_examples_that_meet_in_the_model_are_refused(self, observe: Observe) -> None:
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4)).train()
        reason = refusal(attacks.SoftmaxUnmixing(), observe(model, images(2)))
        assert reason is not None
        assert "train mode" in reason


class TestAttack:
    def test_two_images_of_one_label_come_apart(self, observe: Observe) -> None:
        batch = with_one_label(images(2))
        observation = observe(sigmoid_cnn(), batch, labels=True)
        attack = attacks.SoftmaxUnmixing(iterations=60, stages=4)
        guess = attack(observation, seeds=lg.Seeds(0))
        order = lg.metrics.assign(batch.inputs, guess.inputs)
        assert float(psnr(guess.inputs[order], batch.inputs).min()) > 30
        assert "features of 2 of 2" in guess.notes[0]

    def test_what_cannot_be_read_is_told(self, observe: Observe) -> None:
        """With four classes, the four rows of the gradient sum to zero. They separate three examples."""
        attack = attacks.SoftmaxUnmixing()
        assert refusal(attack, observe(sigmoid_cnn(), images(3))) is None
        reason = refusal(attack, observe(sigmoid_cnn(), images(4)))
        assert reason is not None
        assert "cannot tell 4 examples apart" in reason
        guess = attack(observe(sigmoid_cnn(), images(4)), seeds=lg.Seeds(0))
        assert guess.status is lg.Status.INAPPLICABLE

    def test_labels_that_were_not_read_are_those_left_over(self, observe: Observe) -> None:
        batch = lg.Batch(images(3).inputs, torch.tensor([2, 1, 2]))
        observation = observe(sigmoid_cnn(), batch, labels=True)
        found = complete_labels(
            torch.tensor([2, -1, -1]), partial(plan_labels, observation), lg.Seeds(0)
        )
        assert found is not None
        assert found[0] == 2
        assert sorted(found.tolist()) == [1, 2, 2]


@pytest.mark.parametrize("behind", [True, False], ids=["pooled behind", "pooled before"])
def test_the_head_may_be_a_convolution(observe: Observe, behind: bool) -> None:
    """Its gradient depends on the mean over its places, and so must the term."""
    last = [nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 8, 3, 2, 1), nn.Sigmoid()]
        model = nn.Sequential(*first, *(last if behind else last[::-1]), nn.Flatten())
    batch = with_one_label(images(2))
    observation = observe(model, batch)
    attack = attacks.SoftmaxUnmixing(warm=1, iterations=5, stages=1)
    assert refusal(attack, observation) is None
    seen = recover_features(observation, torch.Generator().manual_seed(0))
    assert not isinstance(seen, lg.Inapplicable)
    assert bool(seen.found.all())
    head = head_of(observation.model, observation.domain)
    assert head is not None
    term = FeatureMatch.of(observation, head.name, seen.features, torch.zeros(2), pooled=True)
    unit = batch.inputs.double()
    values = [
        float(term(Candidate(u, batch.targets, {}, {}, slice(None)))) for u in (unit, unit.flip(0))
    ]
    assert min(values) < 1e-4
    assert attack(observation, seeds=lg.Seeds(0)).residual is not None
