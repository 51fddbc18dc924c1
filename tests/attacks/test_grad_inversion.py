"""GradInversion: its schedule, its group consistency, its terms and their effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, psnr, refusal
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import inversion
from leakgauge.attacks import GradInversion
from leakgauge.inversion.descents.descent import Evaluation, Setting
from leakgauge.inversion.descents.langevin import LangevinAdam
from leakgauge.inversion.evaluation.batching import Loop, batch_restarts
from leakgauge.inversion.evaluation.step import DoubleBackward
from leakgauge.inversion.search import running
from leakgauge.inversion.search.consensus import (
    Consensus,
    Pull,
    lazy,
    match_examples,
    register_onto,
    registered,
)

Observe = Callable[..., lg.Observation]


def batchnorm_cnn(*, seed: int = 0) -> nn.Module:
    """Return a network in eval mode with two BatchNorm layers, whose statistics are those of smooth images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=None),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8, momentum=None),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 4),
        ).train()
    with torch.no_grad():
        model(smooth_batch(64, seed=1).inputs)
    return model.eval()


def smooth_batch(count: int, *, seed: int = 0) -> lg.Batch:
    """Return 8x8 gray images of blurred noise, about as smooth as photographs."""
    noise = images(count, seed=seed).inputs
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    blurred = nn.functional.pad(noise, (2, 2, 2, 2), mode="reflect")
    blurred = nn.functional.conv2d(blurred, kernel.outer(kernel)[None, None])
    unit = ((blurred - 0.5) * 2 + 0.5).clamp(0, 1)
    return lg.Batch(unit, torch.arange(count) % 4)


class TestDescent:
    def test_rate_warms_up_then_falls_as_a_cosine(self) -> None:
        descent = LangevinAdam(steps=12, lr=0.4, warmup=4)
        rates = [descent.rate(step) for step in range(12)]
        assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
        assert rates[4:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])

    def test_where_the_objective_is_flat_only_the_noise_moves(self) -> None:
        descent = LangevinAdam(steps=3, lr=0.1, warmup=1, noise=0.5)
        setting = Setting(
            project=lambda variables: None,
            tolerance=0.0,
            generator=torch.Generator().manual_seed(4),
        )
        run = descent.run((torch.zeros(2, 3),), setting)
        flat = Evaluation(1.0, (torch.zeros(2, 3),))
        at = [next(run).variables[0], run.send(flat).variables[0], run.send(flat).variables[0]]
        again = torch.Generator().manual_seed(4)
        drawn = [torch.randn((2, 3), generator=again) for _ in range(2)]
        assert torch.allclose(at[1], 0.5 * 0.1 * drawn[0])
        assert torch.allclose(at[2] - at[1], 0.5 * 0.1 * drawn[1])

    def test_the_first_step_is_the_rate_against_the_sign(self) -> None:
        """Without noise, Adam's first step does not depend on the gradient's size."""
        descent = LangevinAdam(steps=8, lr=0.1, warmup=2, noise=0.0)
        setting = Setting(project=lambda variables: None, tolerance=0.0)
        run = descent.run((torch.zeros(3),), setting)
        next(run)
        (moved,) = run.send(Evaluation(1.0, (torch.tensor([2.0, -5.0, 0.1]),))).variables
        assert torch.allclose(moved, torch.tensor([-0.05, 0.05, -0.05]), atol=1e-6)


class TestConsensus:
    def test_examples_of_one_label_are_found_again(self) -> None:
        labels = torch.tensor([1, 1, 1, 2])
        unit = images(4).inputs
        order = torch.tensor([2, 0, 1, 3])
        other = unit[order] + 0.01
        first, second = match_examples([unit, other], [labels, labels], 0)
        assert first.tolist() == [0, 1, 2, 3]
        assert torch.allclose(other[second], unit + 0.01)

    def test_examples_of_other_labels_never_are(self) -> None:
        unit = images(2).inputs
        labels = torch.tensor([0, 1])
        _, second = match_examples([unit, unit.flip(0)], [labels, labels], 0)
        assert second.tolist() == [0, 1]

    def test_lazy_aims_are_the_mean_in_the_order_of_each(self) -> None:
        unit, labels = images(3).inputs, torch.zeros(3, dtype=torch.long)
        order = torch.tensor([1, 2, 0])
        group = Consensus(mean=lazy)
        mine, theirs = group.aims([unit, unit[order] + 0.02], [labels, labels], 0)
        assert torch.allclose(mine, unit + 0.01)
        assert torch.allclose(theirs, (unit + 0.01)[order])

    def test_registration_undoes_a_shift(self) -> None:
        data = lg.data.photos()
        for image in data.inputs[:4]:
            shifted = image.roll(1, dims=-1)
            moved = register_onto(shifted, image)
            inner = (..., slice(3, -3), slice(3, -3))
            before = (shifted - image)[inner].square().mean()
            assert (moved - image)[inner].square().mean() < before / 2

    def test_registered_mean_is_sharper_than_the_plain_one(self) -> None:
        truth = lg.data.photos().inputs[:4]
        restarts = torch.stack([truth.roll(s, dims=-1) for s in (-1, 1)])
        inner = (..., slice(3, -3), slice(3, -3))
        errors = [(mean(restarts) - truth)[inner].square().mean() for mean in (registered, lazy)]
        assert errors[0] < 0.8 * errors[1]

    def test_one_image_is_its_own_registration(self) -> None:
        image = lg.data.photos().inputs[:1]
        assert torch.allclose(registered(image[None]), image, atol=1e-5)

    def test_the_pull_is_a_squared_distance(self) -> None:
        parametrization = inversion.Direct(center=0.5, spread=0.25)
        aim = torch.full((1, 2), 0.75)
        pull = Pull(parametrization.decode, aim, 3.0)
        seen = pull.add_to(Evaluation(1.0, (torch.ones(1, 2), torch.ones(1))), (torch.zeros(1, 2),))
        assert seen.value == pytest.approx(1 + 3 * 0.25**2)
        # The derivative is that of 3 mean (0.5 + 0.25 v - 0.75)^2 over two values.
        assert torch.allclose(seen.gradient[0], torch.full((1, 2), 1 + 3 * 2 * 0.25 * -0.25 / 2))
        assert torch.equal(seen.gradient[1], torch.ones(1))

    def test_meetings(self) -> None:
        group = Consensus(start=0.25, every=10)
        assert list(group.meetings(60)) == [15, 25, 35, 45, 55]
        assert list(Consensus(start=0.0, every=2).meetings(4)) == [1, 3]


class TestGroup:
    def matching(self, weight: float, **options: object) -> inversion.GradientMatching:
        return inversion.GradientMatching(
            objective=inversion.Cosine(),
            parametrization=inversion.Direct(center=0.5, spread=0.25, box=True),
            labels=inversion.Known(),
            descent=LangevinAdam(steps=30, warmup=2),
            restarts=3,
            group=Consensus(weight=weight, mean=lazy, start=0.2, every=5),
            **options,  # type: ignore[arg-type]
        )

    def spread(self, found: list[Tensor]) -> float:
        stacked = torch.stack(found)
        return float((stacked - stacked.mean(0)).square().mean())

    def test_restarts_end_nearer_to_each_other(
        self, observe: Observe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        observation = observe(mlp(), images(2), labels=True)
        spreads = []
        for weight in (0.0, 30.0):
            ends: list[Tensor] = []
            settle = running.settle

            def keep(restarts, live, group, settle=settle, ends=ends):  # type: ignore[no-untyped-def]
                said = settle(restarts, live, group)
                ends.extend(restart.reconstruct()[0] for restart in restarts)
                return said

            with monkeypatch.context() as patch:
                patch.setattr(running, "settle", keep)
                self.matching(weight)(observation, seeds=lg.Seeds(0))
            spreads.append(self.spread(ends))
        assert spreads[1] < spreads[0] / 2

    def test_without_weight_it_is_as_without_a_group(self, observe: Observe) -> None:
        observation = observe(mlp(), images(2), labels=True)
        held = self.matching(0.0)
        alone = replace(held, group=None)
        first, second = (m(observation, seeds=lg.Seeds(0)) for m in (held, alone))
        assert first.cost.evaluations == second.cost.evaluations + 4
        # Each restart returns its last iterate, since the objective changes from meeting to meeting.
        assert first.objectives == pytest.approx(second.objectives, abs=0.05)

    def test_one_axis_and_a_loop_agree(
        self, observe: Observe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pull of the group is added after the step, so it works with traced steps, too."""
        observation = observe(mlp(), images(2), labels=True)
        found = []
        for axis in (True, False):

            def choose(problem, fixed, count, planned, axis=axis):  # type: ignore[no-untyped-def]
                if axis:
                    return batch_restarts(problem, fixed, count), ""
                return Loop(DoubleBackward(problem), fixed), ""

            monkeypatch.setattr(running, "choose_restarts", choose)
            matching = replace(self.matching(1.0), descent=LangevinAdam(steps=12, warmup=2))
            found.append(matching(observation, seeds=lg.Seeds(0)))
        assert torch.allclose(found[0].inputs, found[1].inputs, atol=1e-2)
        assert found[0].objectives == pytest.approx(found[1].objectives, rel=1e-2)

    def test_the_objective_alone_chooses(self, observe: Observe) -> None:
        """The result is the restart or the consensus with the smallest objective, without the pull."""
        observation = observe(mlp(), images(2), labels=True)
        guess = self.matching(30.0)(observation, seeds=lg.Seeds(0))
        assert guess.objectives[guess.restart] == min(guess.objectives)
        labels = observation.knowledge.labels
        assert labels is not None
        model, parameters = observation.model, list(observation.model.parameters())
        loss = nn.functional.cross_entropy(model(guess.inputs), labels)
        g = torch.cat([t.flatten() for t in torch.autograd.grad(loss, parameters)])
        seen = torch.cat([t.flatten() for t in observation.update.tensors.values()])
        cosine = 1 - float(g @ seen / (g.norm() * seen.norm()))
        assert guess.objectives[guess.restart] == pytest.approx(cosine, rel=1e-3)
        assert any(note.startswith("group: of 3 restarts") for note in guess.notes)

    def test_with_halving_the_dropped_are_scored_alike(self, observe: Observe) -> None:
        observation = observe(mlp(), images(2), labels=True)
        guess = self.matching(1.0, halving=True)(observation, seeds=lg.Seeds(0))
        assert guess.objectives[guess.restart] == min(guess.objectives)
        assert len(guess.objectives) == 3


class TestRecipe:
    def test_a_term_of_weight_0_is_not_there(self, observe: Observe) -> None:
        observation = observe(batchnorm_cnn(), smooth_batch(2))
        names = ("gradient", "tv", "l2", "batchnorm")
        kinds = ("LayerNorms", "TotalVariation", "Energy", "BatchStatistics")
        assert len(GradInversion().terms(observation)) == 4
        for name, kind in zip(names, kinds, strict=True):
            left = repr(replace(GradInversion(), **{name: 0.0}).terms(observation))
            assert kind not in left
            assert sum(other in left for other in kinds) == 3
        attack = GradInversion(consistency=0.0)
        assert attack.matching(observation, inversion.Known()).group is None
        reason = refusal(GradInversion(gradient=0, tv=0, l2=0, batchnorm=0), observation)
        assert reason is not None
        assert "weight 0" in reason

    def test_a_network_without_batchnorm_has_no_such_term(self, observe: Observe) -> None:
        assert "BatchStatistics" not in repr(GradInversion().terms(observe(mlp(), images(2))))

    def test_statistics_are_the_batchs_own_where_granted_else_a_proxys(
        self, observe: Observe
    ) -> None:
        batch = smooth_batch(3)
        model, proxy = batchnorm_cnn().train(), batchnorm_cnn(seed=5)
        shared = observe(model, batch, statistics=True)
        candidate = inversion.Candidate(batch.inputs, batch.targets, {}, {})
        exact = GradInversion().statistics(shared)
        assert float(exact(candidate).detach()) < 1e-6
        withheld = observe(model, batch)
        (own,) = GradInversion().statistics(withheld).moments
        assert own.model is withheld.model
        (other,) = GradInversion(proxy=proxy).statistics(withheld).moments
        assert other.model is proxy
        assert other.targets.keys() == {"1", "4"}

    def test_labels_are_read_by_the_papers_rule(self, observe: Observe) -> None:
        batch = lg.Batch(smooth_batch(3).inputs, torch.tensor([3, 0, 2]))
        attack = GradInversion(steps=2, restarts=1)
        guess = attack(observe(batchnorm_cnn(), batch), seeds=lg.Seeds(0))
        assert guess.targets is not None
        assert sorted(guess.targets.tolist()) == [0, 2, 3]
        reason = refusal(attack, observe(batchnorm_cnn(), smooth_batch(5)))
        assert reason is not None
        assert "distinct labels: batch 5 > 4" in reason
        assert refusal(attack, observe(batchnorm_cnn(), smooth_batch(5), labels=True)) is None

    def test_registration_is_of_images(self) -> None:
        domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 2])
        owner = lg.Client(model=mlp(2), loss=nn.functional.cross_entropy, domain=domain, classes=4)
        batch = lg.Batch(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))
        observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        assert "lazy" in (refusal(GradInversion(tv=0), observation) or "")
        assert refusal(GradInversion(tv=0, group="lazy"), observation) is None

    def test_priors_bring_the_image_nearer(self, observe: Observe) -> None:
        batch = smooth_batch(4)
        observation = observe(batchnorm_cnn(), batch, labels=True)
        bare = GradInversion(
            steps=60, warmup=5, restarts=2, distance="cosine", gradient=1, group="none",
            tv=0, l2=0, batchnorm=0, lr=0.3,
        )  # fmt: skip
        whole = replace(
            bare, tv=0.1, l2=1e-3, batchnorm=0.3, group="lazy", consistency=0.1, every=20
        )
        scores = [
            psnr(batch.inputs, attack(observation, seeds=lg.Seeds(0)).inputs).mean()
            for attack in (bare, whole)
        ]
        assert scores[1] > scores[0] + 2
