"""InstaHide compared with its formula, and the attack on one batch of its encryptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, planned, psnr, refusal, sigmoid_cnn

import leakgauge as lg
from leakgauge.core import SpecificationError
from leakgauge.defenses import InstaHide, Mixup


class TestInstaHide:
    @pytest.mark.parametrize("mixed", [2, 4])
    def test_coefficients_are_bounded_and_sum_to_one(self, mixed: int) -> None:
        for seed in range(20):
            weights = InstaHide(mixed=mixed).weights(12, seeds=lg.Seeds(seed))
            assert torch.allclose(weights.sum(1), torch.ones(12))
            assert int((weights > 0).sum(1).max()) <= mixed
            alone = weights.fill_diagonal_(0)[weights.count_nonzero(1) == mixed - 1]
            assert float(alone.max()) <= 0.65

    def test_encryptions_are_mixtures_but_for_signs(self) -> None:
        batch, defense, seeds = images(4), InstaHide(), lg.Seeds(1)
        rows = torch.eye(4)[batch.targets]
        inputs, targets = defense.on_batch(batch.inputs, rows, seeds=seeds)
        weights = defense.weights(4, seeds=seeds)
        mixtures = torch.einsum("ij,j...->i...", weights, batch.inputs)
        assert torch.allclose(targets, weights)
        assert torch.allclose((inputs - 0.5).abs(), (mixtures - 0.5).abs(), atol=1e-6)
        flipped = (inputs - mixtures).abs() > 1e-6
        assert 0.35 < float(flipped.float().mean()) < 0.65
        assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
        assert torch.equal(batch.inputs, images(4).inputs)

    def test_seeds_decide(self) -> None:
        rows, inputs = torch.eye(4), images(4).inputs
        one, same, other = (
            InstaHide().on_batch(inputs, rows, seeds=lg.Seeds(seed))[0] for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_a_bound_that_leaves_no_coefficients_is_refused(self) -> None:
        with pytest.raises(SpecificationError, match="bound of at least"):
            InstaHide(mixed=2, bound=0.5)


class TestDecoding:
    attack = lg.attacks.InstaHideDecoding(
        attack=lg.attacks.InvertingGradients(steps=300, tv=0.0), draws=1
    )

    def test_signs_hide_nothing_of_one_bright_image(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        batch = images(1)
        bright = replace(batch, inputs=0.5 + batch.inputs / 2)
        seen = observe(sigmoid_cnn(), bright, under=InstaHide(), labels=True)
        found, naive = (one(seen, seeds=lg.Seeds(0)) for one in (self.attack, self.attack.attack))
        assert float(psnr(bright.inputs, found.inputs)) > 25
        assert float(psnr(bright.inputs, naive.inputs)) < 12
        assert "not undone" in found.notes[-1]

    def test_its_guess_has_no_signs_and_its_cost_is_planned(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        seen = observe(sigmoid_cnn(), images(3), under=InstaHide())
        attack = replace(self.attack, attack=lg.attacks.InvertingGradients(steps=3), draws=3)
        found = attack(seen, seeds=lg.Seeds(0))
        assert float(found.inputs.min()) >= 0.5
        assert found.cost.evaluations <= planned(attack, seen).evaluations

    def test_other_defenses_are_refused(self, observe: Callable[..., lg.Observation]) -> None:
        seen = observe(sigmoid_cnn(), images(2), under=Mixup(), labels=True)
        assert refusal(self.attack, seen) is not None
        with pytest.raises(lg.KnowledgeError, match="defense"):
            self.attack.plan(observe(sigmoid_cnn(), images(2), labels=True))
