"""Mixup follows its formula. Its decoding: linear algebra, the pairings that labels allow, and the whole attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import client, images, planned, psnr, refusal, sigmoid_cnn
from torch.nn import functional

import leakgauge as lg
from leakgauge.attacks.mixings import (
    Mixing,
    allowed_pairings,
    candidate_mixings,
    solve_mixtures,
    unmix,
)
from leakgauge.attacks.recipe import Recipe
from leakgauge.core import DataError, MixedExamples, effect
from leakgauge.defenses import Chain, Mixup, TopK


def smooth(count: int) -> lg.Batch:
    """Return smooth images, each of its own class."""
    coarse = torch.rand((count, 1, 3, 3), generator=torch.Generator().manual_seed(1))
    fine = functional.interpolate(coarse, size=8, mode="bilinear")
    return lg.Batch(fine, torch.arange(count))


class TestMixup:
    def mixed(self, batch: lg.Batch, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.eye(4)[batch.targets]
        return Mixup().on_batch(batch.inputs, rows, seeds=lg.Seeds(seed))

    def test_inputs_and_targets_are_mixed_alike(self) -> None:
        batch = images(4)
        inputs, targets = self.mixed(batch)
        assert torch.allclose(inputs, torch.einsum("ij,j...->i...", targets, batch.inputs))
        assert torch.allclose(targets.sum(1), torch.ones(4))
        assert torch.allclose(targets.sum(0), torch.ones(4))
        assert len(targets[targets > 0].unique()) in (2, 3)

    def test_seeds_decide(self) -> None:
        batch = images(4)
        one, same, other = (self.mixed(batch, seed)[0] for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(batch.inputs, images(4).inputs)

    @pytest.mark.parametrize(("alpha", "mean"), [(1e-2, 0.99), (1.0, 0.75), (1e3, 0.51)])
    def test_lambda_is_of_its_law(self, alpha: float, mean: float) -> None:
        """The larger of lambda and 1 - lambda has mean 3/4 if lambda is uniform."""
        coefficients = [Mixup(alpha=alpha)._coefficient(lg.Seeds(i)) for i in range(400)]
        assert min(coefficients) >= 0.5
        assert sum(coefficients) / 400 == pytest.approx(mean, abs=0.03)

    def test_clients_train_on_soft_targets(self, observe: Callable[..., lg.Observation]) -> None:
        model, batch = sigmoid_cnn(), images(4)
        seeds = lg.Seeds(7).child("defense").child("1")
        rows = torch.eye(4)[batch.targets]
        expected = lg.FedSGD()(
            model, functional.cross_entropy, *Mixup().on_batch(batch.inputs, rows, seeds=seeds)
        )
        under = Chain(defenses=(TopK(sparsity=0.0), Mixup()))
        found = observe(model, batch, under=under).update.tensors
        assert all(torch.allclose(found[n], t, atol=1e-6) for n, t in expected.items())
        assert effect(under, MixedExamples) is not None

    def test_class_labels_need_a_number_of_classes(self) -> None:
        unknown = replace(client(sigmoid_cnn(), defense=Mixup()), classes=None)
        with pytest.raises(DataError, match="number of classes"):
            unknown.share(sigmoid_cnn(), images(2), seeds=lg.Seeds(0))


class TestDecoding:
    def test_mixtures_are_undone(self) -> None:
        inputs, order = images(4).inputs, [1, 3, 0, 2]
        mixtures = 0.7 * inputs + 0.3 * inputs[order]
        assert torch.allclose(solve_mixtures(mixtures, 0.7, order), inputs, atol=1e-5)

    def test_labels_allow_what_they_say(self) -> None:
        distinct = Mixing(0.7, (0, 1, 2), (1, 2, 0))
        assert list(allowed_pairings(distinct)) == [[1, 2, 0]]
        twice = Mixing(0.7, (0, 0, 1), (0, 1, 0))
        assert sorted(allowed_pairings(twice)) == [[0, 2, 1], [1, 2, 0]]

    def test_the_pairing_that_leaves_no_ghosts_is_chosen(self) -> None:
        noise = torch.Generator().manual_seed(0)
        inputs, order = torch.rand((4, 1, 32, 32), generator=noise), [1, 3, 0, 2]
        mixtures = 0.7 * inputs + 0.3 * inputs[order]
        found, notes = unmix(mixtures, Mixing(0.7, (0, 0, 0, 1), (0, 1, 0, 0)), 100)
        assert float(psnr(inputs, found).min()) > 60
        assert "lambda 0.7, 6 pairings" in notes[0]

    def test_what_cannot_be_told_is_said(self) -> None:
        inputs = smooth(2).inputs
        _, notes = unmix(inputs, Mixing(1.0, (0, 0), (0, 0)), 100)
        assert "one class in each mixture" in " ".join(notes)
        both = (inputs + inputs.flip(0)) / 2
        found, notes = unmix(both, Mixing(0.5, (0, 1), (1, 0)), 100)
        assert "near 1/2" in " ".join(notes)
        assert torch.allclose(found, both, atol=1e-5)

    def test_mixings_are_each_tried_once(self) -> None:
        generator = torch.Generator()
        some = list(candidate_mixings([0, 1], 24, generator))
        assert len(some) == 4
        assert sum(not one.settled for one in some) == 1
        assert len(list(candidate_mixings([1, 1], 24, generator))) == 1
        assert len(list(candidate_mixings(list(range(8)), 3, generator))) == 9

    def test_other_defenses_are_refused(self, observe: Callable[..., lg.Observation]) -> None:
        attack = lg.attacks.MixupDecoding()
        assert refusal(attack, observe(sigmoid_cnn(), images(2), under=TopK(), labels=True))
        with pytest.raises(lg.KnowledgeError, match="defense"):
            attack.plan(observe(sigmoid_cnn(), images(2), labels=True))

    @pytest.mark.parametrize("scout", [None, lg.attacks.VanishingPrior(steps=100)])
    def test_examples_come_out_of_mixtures(self, scout: Recipe | None) -> None:
        """Two examples are mixed with each other with lambda 0.78. The inner attack alone stays with the mixtures."""
        batch, inner = smooth(2), lg.attacks.SecondOrder()
        seen = lg.Server(labels=True).observe(
            client(sigmoid_cnn(), defense=Mixup()), batch, seeds=lg.Seeds(8)
        )
        decoding = lg.attacks.MixupDecoding(attack=inner, scout=scout, shortlist=1, moves=1)
        assert refusal(decoding, seen) is None
        found, naive = (one(seen, seeds=lg.Seeds(0)) for one in (decoding, inner))
        assert float(psnr(batch.inputs, found.inputs).mean()) > 6 + float(
            psnr(batch.inputs, naive.inputs).mean()
        )
        assert found.cost.evaluations <= planned(decoding, seen).evaluations
