"""Feature inversion: features of each example from a deep linear layer, and images from features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import images, mlp, psnr, refusal, shifted, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.hidden import Features, deep_layer, feature_reader
from leakgauge.attacks import FeatureInversion
from leakgauge.inversion import Candidate, FeatureMatch, Known, TotalVariation
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.variables.parametrization import Direct

Observe = Callable[..., lg.Observation]


def hidden_cnn(width: int = 96, *, seed: int = 0) -> nn.Module:
    """Return a convolution and two linear layers, with ReLUs between them and centered inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            lg.models.Normalize(torch.tensor([[[0.5]]]), torch.tensor([[[0.25]]])),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, width),
            nn.ReLU(),
            nn.Linear(width, 4),
        ).eval()


def true_features(observation: lg.Observation, inputs: Tensor) -> Tensor:
    found = deep_layer(observation)
    assert not isinstance(found, lg.Inapplicable)
    return found.feature(observation.domain.to_unit(inputs).double()).detach()


def relative_distances(found: Tensor, truth: Tensor) -> Tensor:
    """Return the relative distance (B,) of each true row to the nearest row found."""
    return torch.cdist(truth, found).min(1).values / truth.norm(dim=1)


def features_of(
    observation: lg.Observation, generator: torch.Generator, *, rounds: int
) -> Features:
    read = feature_reader(observation, rounds=rounds)
    assert not isinstance(read, lg.Inapplicable), read
    features = read(generator, lambda fraction: None)
    assert isinstance(features, Features), features
    return features


class TestRead:
    def test_one_example_by_the_ratio(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(1))
        features = features_of(seen, torch.Generator(), rounds=1)
        assert "dW / db" in features.source
        assert (
            relative_distances(features.features, true_features(seen, images(1).inputs)).max()
            < 1e-5
        )

    @pytest.mark.parametrize("equal", [False, True])
    def test_a_batch_by_unmixing_a_hidden_layer(self, observe: Observe, equal: bool) -> None:
        """It succeeds in most draws of network, batch and rounding.

        With four classes, mixtures of five examples are sparse, too.
        """
        read_whole = 0
        for draw in range(20):
            batch = images(5, seed=draw)
            if equal:
                batch = lg.Batch(batch.inputs, torch.full((5,), 3))
            seen = shifted(observe(hidden_cnn(seed=draw), batch), seed=draw)
            features = features_of(seen, torch.Generator().manual_seed(0), rounds=12)
            assert "Cocktail Party Attack on '4'" in features.source
            if "5 of 5" not in features.source:
                continue
            truth = true_features(seen, batch.inputs)
            assert relative_distances(features.features, truth).max() < 1e-4
            nearest = torch.cdist(truth, features.features).argmin(1)
            assert features.labels[nearest].tolist() == batch.targets.tolist()
            read_whole += 1
        assert read_whole >= 19

    def test_a_batch_by_softmax_unmixing_of_the_last_layer(self, observe: Observe) -> None:
        batch = images(2)
        seen = observe(sigmoid_cnn(), batch)
        features = features_of(seen, torch.Generator().manual_seed(0), rounds=1)
        assert "softmax unmixing" in features.source
        assert relative_distances(features.features, true_features(seen, batch.inputs)).max() < 1e-3

    @pytest.mark.parametrize(
        ("model", "batch_size", "reason"),
        [
            (sigmoid_cnn(), 4, "cannot tell 4 examples apart"),
            (hidden_cnn(width=6), 8, "batch 8 > 6"),
            (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), 1, "no linear layer"),
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)), 1, "no trainable bias"),
            (nn.Sequential(nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 4)), 1, "axes an example"),
        ],
    )
    def test_says_why_it_cannot(
        self, observe: Observe, model: nn.Module, batch_size: int, reason: str
    ) -> None:
        assert reason in str(feature_reader(observe(model, images(batch_size)), rounds=12))


def test_features_of_a_hidden_layer_match_at_the_batch(observe: Observe) -> None:
    batch = images(3)
    seen = observe(hidden_cnn(), batch)
    truth = true_features(seen, batch.inputs)
    match = FeatureMatch.of(seen, "4", truth, torch.zeros(3).double())
    unit = batch.inputs.double()
    assert float(match(Candidate(unit, batch.targets, {}, {}))) < 1e-12
    assert float(match(Candidate(unit.flip(0), batch.targets, {}, {}))) > 0.1


def test_local_terms_alone_ask_for_no_simulation(observe: Observe) -> None:
    seen = observe(mlp(), images(1))

    def refuse(unit: Tensor, targets: Tensor) -> dict[str, Tensor]:
        raise AssertionError("simulated")

    problem = Problem(seen, TotalVariation(), Direct(), Known(), images(1).targets)
    assert problem.value((images(1).inputs,), (1.0,), refuse) > 0


class TestAttack:
    def test_an_image_from_its_features(self, observe: Observe) -> None:
        """With more features than pixels, the whole image and the label are recovered."""
        seen = observe(sigmoid_cnn(), images(1, seed=3))
        guess = FeatureInversion(steps=300, smoothness=0.0)(seen, seeds=lg.Seeds(0))
        assert psnr(images(1, seed=3).inputs, guess.inputs).min() > 30
        assert guess.targets is not None
        assert guess.targets.tolist() == images(1, seed=3).targets.tolist()
        assert guess.notes[0].startswith("features: dW / db")

    def test_a_batch_of_one_label(self, observe: Observe) -> None:
        batch = lg.Batch(images(4).inputs, torch.ones(4, dtype=torch.long))
        seen = observe(hidden_cnn(), batch)
        guess = FeatureInversion(steps=200, smoothness=0.0)(seen, seeds=lg.Seeds(0))
        assert psnr(batch.inputs, guess.inputs).min() > 25
        assert guess.found.all()

    def test_the_gradient_may_count_too(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(1))
        alone, both = (
            FeatureInversion(steps=20, gradients=weight)(seen, seeds=lg.Seeds(0))
            for weight in (0.0, 1.0)
        )
        assert both.residual is not None
        assert alone.residual is not None
        assert both.residual < alone.residual

    def test_tables_take_no_smoothness(self) -> None:
        data = lg.data.diabetes()
        owner = lg.Client(
            model=lg.models.build(lg.models.mlp, data.domain, 2, width=32),
            loss=functional.cross_entropy,
            domain=data.domain,
            classes=2,
        )
        batch = lg.Batch(data.inputs[:1], data.targets[:1])
        seen = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        assert "smoothness" in (refusal(FeatureInversion(), seen) or "")
        guess = FeatureInversion(steps=100, smoothness=0.0)(seen, seeds=lg.Seeds(0))
        found, truth = data.domain.to_unit(guess.inputs), data.domain.to_unit(batch.inputs)
        assert torch.allclose(found, truth, atol=1e-2)

    def test_train_mode_batch_norm_is_refused(self, observe: Observe) -> None:
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)
        ).train()
        assert "train mode" in (refusal(FeatureInversion(), observe(model, images(2))) or "")
