"""The Cocktail Party Attack and its parts: independent components and silent outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, psnr, refusal, shifted, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.independence import NegentropyDescent, fixed_point, whitening
from leakgauge.analytic.mixtures import mixture
from leakgauge.analytic.silence import (
    Silent,
    credit_directions,
    independent_directions,
    vanishing_direction,
)
from leakgauge.analytic.tail import Tail
from leakgauge.attacks import CocktailParty
from leakgauge.output import Contribution, contribution_of

Observe = Callable[..., lg.Observation]


@pytest.fixture(scope="module")
def photos() -> lg.Dataset:
    return lg.data.photos()


def observe_photos(
    data: lg.Dataset,
    batch_size: int,
    *,
    width: int = 96,
    seed: int = 0,
    defense: lg.Defense | None = None,
    **options: str,
) -> tuple[lg.Batch, lg.Observation]:
    """Return a batch of photographs of one label, and its observation on an MLP."""
    model = lg.models.build(
        lg.models.mlp, data.domain, 4, seed=seed, width=width, depth=3, **options
    )
    client = lg.Client(
        model=model, loss=functional.cross_entropy, domain=data.domain, classes=4, defense=defense
    )
    batch = lg.Batch(data.inputs[:batch_size], torch.full((batch_size,), 2))
    return batch, lg.Server().observe(client, batch, seeds=lg.Seeds(0))


def sparse(count: int, length: int, *, seed: int = 0) -> Tensor:
    """Return independent signals (count, length) with many small and few large values."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((count, length), generator=generator, dtype=torch.float64)
    return drawn.sign() * drawn.abs() ** 3


def mix(signals: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    matrix = torch.randn((len(signals), len(signals)), generator=generator, dtype=torch.float64)
    return matrix @ signals


def best_cosines(found: Tensor, truth: Tensor) -> Tensor:
    """Return the largest |cosine| of each true signal with any of those found."""
    normal = functional.normalize
    return (normal(truth) @ normal(found).T).abs().max(1).values


class TestIndependence:
    def test_white_signals_are_uncorrelated(self) -> None:
        signals = mix(sparse(5, 4000))
        white = whitening(signals) @ signals
        assert torch.allclose(white @ white.T / 4000, torch.eye(5).double(), atol=1e-8)

    def test_the_fixed_point_unmixes_sparse_signals(self) -> None:
        truth = sparse(6, 8000)
        white = whitening(mix(truth)) @ mix(truth)
        rows = fixed_point(white, torch.Generator().manual_seed(0))
        assert torch.allclose(rows @ rows.T, torch.eye(6).double(), atol=1e-5)
        assert best_cosines(rows @ white, truth).min() > 0.99

    def test_the_descent_unmixes_signals_flatter_than_gaussian(self) -> None:
        """These signals have the largest (E log cosh)^2. The rows found are far apart and have unit norm."""
        generator = torch.Generator().manual_seed(0)
        truth = torch.rand((4, 4000), generator=generator, dtype=torch.float64) - 0.5
        white = whitening(mix(truth)) @ mix(truth)
        descent = NegentropyDescent(
            steps=400, lr=1e-2, independence=0.01, sharpness=5.0, prior=lambda u: 0 * u.sum()
        )
        rows = descent(white, torch.Generator().manual_seed(1))
        assert torch.allclose(rows.norm(dim=1), torch.ones(4).double())
        assert best_cosines(rows @ white, truth).min() > 0.95


def relu_gradient(batch: int, outputs: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return dW (outputs, 200), db (outputs,) and the deltas (outputs, batch) that give them.

    Half of the entries of the deltas are 0.
    """
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn((outputs, batch), generator=generator, dtype=torch.float64)
    deltas *= torch.rand((outputs, batch), generator=generator) < 0.5
    inputs = torch.rand((batch, 200), generator=generator, dtype=torch.float64)
    return deltas @ inputs, deltas.sum(1), deltas


class TestSilence:
    def test_the_mixture_is_the_gradient_of_so_many_examples(self) -> None:
        weight, bias, _ = relu_gradient(7, 40)
        shared = mixture(weight.float(), bias.float(), 9)
        assert len(shared.strength) == 7  # Two of the nine examples have no gradient.
        assert torch.allclose(
            shared.left @ shared.signals, torch.cat([weight, bias[:, None]], 1), atol=1e-5
        )

    @pytest.mark.parametrize("wrong", [0, 5])
    def test_a_delta_is_exact_from_a_rough_guess(self, wrong: int) -> None:
        """It is exact even if some outputs are wrongly taken for inactive."""
        weight, bias, deltas = relu_gradient(12, 120)
        shared = mixture(weight, bias, 12)
        truth = shared.left.T @ deltas[:, 0]
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(12, generator=generator, dtype=torch.float64)
        start = truth + 0.3 * truth.norm() * noise / noise.norm()
        depth = (deltas[:, 0] == 0).double()
        active = (depth == 0).nonzero().squeeze(1)
        depth[active[:wrong]] = 0.5
        found = vanishing_direction(shared, start, depth)
        assert found is not None
        assert best_cosines(found.direction[None], truth[None]) > 1 - 1e-10

    def test_nothing_is_found_where_outputs_do_not_vanish(self) -> None:
        weight, bias, _ = relu_gradient(12, 120)
        shared = mixture(weight, bias, 12)
        depth = torch.zeros(120).double()
        # These are not the inactive outputs of any example.
        depth[:60] = 1.0
        assert vanishing_direction(shared, torch.ones(12).double(), depth) is None
        few = torch.zeros(120).double()
        # Twelve outputs prove nothing: a direction can be bent to vanish at any 11 of them.
        few[:12] = 1.0
        assert vanishing_direction(shared, torch.ones(12).double(), few) is None

    def test_a_direction_found_twice_counts_once(self) -> None:
        weight, bias, deltas = relu_gradient(3, 60)
        shared = mixture(weight, bias, 3)
        start, depth = shared.left.T @ deltas[:, 1], (deltas[:, 1] == 0).double()
        found = vanishing_direction(shared, start, depth)
        assert found is not None
        assert independent_directions([found, found], torch.zeros(3, 0).double()).shape == (3, 1)

    def test_a_mixture_that_vanishes_as_often_is_not_credible(self) -> None:
        """With two classes, delta is one signal times a factor for each example. So pairs of examples cancel."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand((3, 40), generator=generator, dtype=torch.float64)
        layer = torch.randn((120, 40), generator=generator, dtype=torch.float64)
        active = (inputs @ layer.T > 0).double().T
        signal = torch.randn((120, 1), generator=generator, dtype=torch.float64)
        deltas = active * signal * torch.tensor([1.0, 0.9, 1.1], dtype=torch.float64)
        shared = mixture(deltas @ inputs, deltas.sum(1), 3)
        own = (shared.left.T @ deltas).T
        pair = 0.9 * own[0] - own[1]
        quiet = ((shared.left @ torch.stack([own[0], pair]).T).abs() < 1e-9).sum(0)
        assert quiet[1] > quiet[0]
        found = [Silent(p / p.norm(), 1.0) for p in (pair, *own)]
        kept = credit_directions(shared, found, layer @ shared.signals[:, :-1].T)
        assert len(kept) == 3
        assert independent_directions(kept, torch.zeros(3, 0).double()).shape == (3, 3)


def contribution(observation: lg.Observation) -> Contribution:
    found = contribution_of(observation)
    assert isinstance(found, Contribution)
    return found


def test_the_tail_causes_what_the_client_shares(observe: Observe) -> None:
    """The deltas give the gradient, and the right labels explain them. Inactive outputs pass nothing back."""
    batch = images(5)
    model = mlp()
    observation = observe(model, batch)
    tail = Tail.of(observation, "1", contribution(observation))
    inputs = batch.inputs.flatten(1).double()
    deltas = torch.stack([tail.deltas(inputs, int(y))[i] for i, y in enumerate(batch.targets)])
    assert torch.allclose(
        deltas.T @ inputs, observation.update.tensors["1.weight"].double(), atol=1e-6
    )
    best = tail.explain(inputs, deltas)
    assert best.misfit.max() < 1e-12
    assert best.labels.tolist() == batch.targets.tolist()
    depth = tail.depth(inputs)
    assert torch.equal(depth > 0, tail.outputs(inputs) < 0)
    gelu = observe(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 4)), batch)
    smooth = Tail.of(gelu, "1", contribution(gelu))
    assert not smooth.depth(inputs).any()


class TestAttack:
    def test_a_batch_of_one_label_exactly(self, photos: lg.Dataset) -> None:
        batch, seen = observe_photos(photos, 24)
        guess = CocktailParty()(seen, seeds=lg.Seeds(0))
        assert guess.status is lg.Status.CERTIFIED, guess.message
        assert psnr(batch.inputs, guess.inputs).min() > 60
        assert guess.targets is not None
        assert guess.targets.tolist() == batch.targets.tolist()
        assert guess.residual is not None
        assert guess.residual < 1e-5

    def test_photographs_with_like_patterns_come_apart(self, photos: lg.Dataset) -> None:
        """Neighboring cuts of a photograph leave nearly the same outputs silent, but the model separates them."""
        exact = 0
        for draw in range(14):
            order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(draw))
            some = replace(photos, inputs=photos.inputs[order], targets=photos.targets[order])
            batch, seen = observe_photos(some, 16, seed=draw)
            guess = CocktailParty()(shifted(seen, seed=draw), seeds=lg.Seeds(0))
            least = float(psnr(batch.inputs, guess.inputs).min())
            assert least > 60 or guess.status is not lg.Status.CERTIFIED
            exact += guess.status is lg.Status.CERTIFIED
        assert exact >= 13

    def test_independent_components_alone_are_recognizable(self, photos: lg.Dataset) -> None:
        batch, seen = observe_photos(photos, 8)
        rough = CocktailParty(rounds=0)(seen, seeds=lg.Seeds(0))
        assert rough.status is lg.Status.UNCONVERGED
        assert 18 < float(psnr(batch.inputs, rough.inputs).median()) < 60

    def test_the_papers_descent_runs(self, photos: lg.Dataset) -> None:
        batch, seen = observe_photos(photos, 4)
        few, many = (
            CocktailParty(optimizer="adam", steps=steps, lr=1e-2, rounds=0)(seen, seeds=lg.Seeds(0))
            for steps in (1, 500)
        )
        assert psnr(batch.inputs, many.inputs).mean() > psnr(batch.inputs, few.inputs).mean() + 1

    def test_a_smooth_network_is_unmixed_but_not_exactly(self, photos: lg.Dataset) -> None:
        batch, seen = observe_photos(photos, 6, activation="gelu")
        guess = CocktailParty()(seen, seeds=lg.Seeds(0))
        assert guess.status is lg.Status.UNCONVERGED
        assert "silent outputs: 0 of 6" in guess.notes[0]
        assert float(psnr(batch.inputs, guess.inputs).median()) > 15

    def test_noise_blurs_it_and_is_not_certified(self, photos: lg.Dataset) -> None:
        scores = []
        for std in (1e-6, 1e-1):
            batch, seen = observe_photos(photos, 8, defense=lg.defenses.GaussianNoise(std=std))
            guess = CocktailParty()(seen, seeds=lg.Seeds(0))
            assert torch.isfinite(guess.inputs).all()
            assert guess.status is not lg.Status.CERTIFIED or std == 1e-6
            scores.append(float(psnr(batch.inputs, guess.inputs).median()))
        assert scores[0] > scores[1] + 10

    def test_what_stands_in_no_gradient_is_not_found(self, photos: lg.Dataset) -> None:
        """Two equal examples give one signal, so the attack claims one of the two."""
        batch, seen = observe_photos(photos, 4)
        double = lg.Batch(batch.inputs[[0, 1, 2, 2]], batch.targets)
        owner = lg.Client(
            model=seen.model, loss=functional.cross_entropy, domain=photos.domain, classes=4
        )
        seen = lg.Server().observe(owner, double, seeds=lg.Seeds(0))
        guess = CocktailParty()(seen, seeds=lg.Seeds(0))
        assert guess.found.tolist() == [True, True, True, False]
        assert guess.status is not lg.Status.CERTIFIED
        assert torch.equal(guess.inputs[3], torch.full_like(guess.inputs[3], 0.5))

    def test_an_empty_update_tells_nothing(self, observe: Observe) -> None:
        seen = observe(mlp(), images(2))
        blank = lg.Update({n: torch.zeros_like(t) for n, t in seen.update.tensors.items()})
        guess = CocktailParty()(
            lg.Observation(**{**vars(seen), "update": blank}), seeds=lg.Seeds(0)
        )
        assert not guess.found.any()
        assert guess.status is lg.Status.NO_SIGNAL

    @pytest.mark.parametrize(
        ("model", "batch_size", "reason"),
        [
            (mlp(width=6), 8, "batch 8 > 6"),
            (sigmoid_cnn(), 2, "does not see an invertible affine map"),
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)), 2, "no trainable bias"),
        ],
    )
    def test_says_why_it_does_not_apply(
        self, observe: Observe, model: nn.Module, batch_size: int, reason: str
    ) -> None:
        found = refusal(CocktailParty(), observe(model, images(batch_size)))
        assert found is not None
        assert reason in found
