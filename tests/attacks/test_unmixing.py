"""Softmax unmixing recovers features up to rounding where the gradient holds them. Elsewhere it claims nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from conftest import images, mlp
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.last_layer import recover_features
from leakgauge.analytic.loss_link import link_of
from leakgauge.analytic.softmax_unmixing import Unmixed, unmix
from leakgauge.analytic.whitening import Blur, Layer

Observe = Callable[..., lg.Observation]
CLASSES, WIDTH = 8, 24
EXACT = Blur(2.0**-53, 2.0**-53)


def one_hot(labels: Tensor) -> Tensor:
    """Return labels (B,) as one-hot targets (B, K)."""
    return functional.one_hot(labels, CLASSES).double()


LOSSES = {
    "cross-entropy": functional.cross_entropy,
    "smoothed": lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.1),
    "temperature": lambda z, y: functional.cross_entropy(z / 3, y),
    "binary": lambda z, y: functional.binary_cross_entropy_with_logits(z, one_hot(y)),
    "squared": lambda z, y: functional.mse_loss(z, one_hot(y)),
}


def problem(
    labels: list[int],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    bias: bool = True,
    seed: int = 0,
    push: Sequence[float] = (),
    like: float = 1.0,
) -> tuple[Layer, Tensor]:
    """Return a layer with its gradient, and the features (B, d) of its examples.

    Args:
        labels: The label of each of B examples.
        loss: The loss, from outputs (B, K) and labels (B,).
        bias: Whether the layer has a bias.
        seed: Seed of weights and features.
        push: Added to the output of each example's own class.
        like: Factor on the distance of the features to their mean.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = (0.3 * draw(CLASSES, WIDTH)).requires_grad_()
    offset = (0.3 * draw(CLASSES)).requires_grad_()
    features = (draw(len(labels), WIDTH) + 0.5).relu()
    features = features.mean(0) + like * (features - features.mean(0))
    for i, (label, more) in enumerate(zip(labels, push, strict=False)):
        row = weight.detach()[label]
        features[i] += more * row / row.square().sum()
    outputs = features @ weight.T + (offset if bias else 0)
    value = loss(outputs, torch.tensor(labels))
    slopes = torch.autograd.grad(value, [weight, offset] if bias else [weight])
    held = offset.detach() if bias else None
    return Layer(
        weight.detach(), held, slopes[0], slopes[1] if bias else None, len(labels)
    ), features


def solve(
    layer: Layer,
    labels: list[int] | None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    noise: Blur = EXACT,
    seed: int = 0,
) -> Unmixed:
    """Return the unmixing of a layer's gradient. The counts of `labels` are known unless it is None."""
    link = link_of(loss, CLASSES)
    assert link is not None
    counts = None if labels is None else torch.bincount(torch.tensor(labels), minlength=CLASSES)
    generator = torch.Generator().manual_seed(seed)
    return unmix(layer, link, generator=generator, noise=noise, counts=counts)


def apart(found: Unmixed, features: Tensor) -> Tensor:
    """Return the relative error (B,) of each found example against the nearest true one. No two share one."""
    distance = torch.cdist(found.features, features) / features.norm(dim=1)
    nearest = distance.argmin(1)
    assert len(set(nearest.tolist())) == len(features)
    return distance.gather(1, nearest.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("labels", [[3, 3], [1, 4, 6], [2, 2, 2], [5, 5, 1, 1]])
@pytest.mark.parametrize("known", [True, False])
def test_features_and_labels_of_whole_batches(labels: list[int], known: bool) -> None:
    layer, features = problem(labels)
    found = solve(layer, labels if known else None)
    assert found.certified
    assert apart(found, features).max() < 1e-6
    nearest = torch.cdist(found.features, features).argmin(1)
    assert found.labels.tolist() == torch.tensor(labels)[nearest].tolist()
    assert found.loudness.diff().le(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses(name: str) -> None:
    layer, features = problem([1, 4, 6], loss=LOSSES[name])
    found = solve(layer, [1, 4, 6], loss=LOSSES[name])
    assert found.certified
    assert apart(found, features).max() < 1e-6


def test_a_loss_of_another_form_has_no_link() -> None:
    assert link_of(functional.multi_margin_loss, CLASSES) is None


def test_without_a_bias() -> None:
    layer, features = problem([1, 1, 6], bias=False)
    found = solve(layer, [1, 1, 6])
    assert found.certified
    assert apart(found, features).max() < 1e-6


def test_the_error_estimate_follows_the_noise() -> None:
    layer, features = problem([1, 1, 6])
    for level in (1e-8, 1e-5):
        generator = torch.Generator().manual_seed(1)
        sigma = level * float(layer.dweight.square().mean().sqrt())
        assert layer.dbias is not None
        noisy = [
            slope + sigma * torch.randn(slope.shape, generator=generator, dtype=torch.float64)
            for slope in (layer.dweight, layer.dbias)
        ]
        blurred = Layer(layer.weight, layer.bias, noisy[0], noisy[1], layer.batch)
        found = solve(blurred, [1, 1, 6], noise=Blur(sigma=sigma))
        error = apart(found, features)
        assert (error < 10 * found.error).all()
        assert (found.error < 100 * error).all()


def test_an_example_without_loss_is_out_of_reach() -> None:
    layer, features = problem([1, 6], push=[0.0, 60.0])
    found = solve(single(layer), [1, 6], noise=Blur())
    assert found.found.tolist() == [True, False]
    assert not found.certified
    assert (found.features[0] - features[0]).norm() < 1e-4 * features[0].norm()
    assert found.labels.tolist() == [1, 6]


def single(layer: Layer) -> Layer:
    """Return the layer with its gradient rounded to float32."""
    assert layer.dbias is not None
    rounded = layer.dweight.float().double(), layer.dbias.float().double()
    return Layer(layer.weight, layer.bias, *rounded, layer.batch)


@pytest.mark.parametrize("labels", [[1, 6, 4, 0, 3, 2], [1, 6, 6, 6, 3, 3]])
def test_examples_of_very_different_loss_are_read_the_loudest_first(labels: list[int]) -> None:
    layer, features = problem(labels, push=[-4, 6, 10, 14, 18, 22])
    found = solve(single(layer), labels, noise=Blur())
    assert found.loudness[0] > 1e5 * found.loudness[found.found][-1]
    assert int(found.found.sum()) >= 4
    error = torch.cdist(found.features, features).min(1).values / found.features.norm(dim=1)
    assert (error[found.found] < 0.05).all()


def test_directions_that_rounding_hides_are_not_claimed() -> None:
    layer, features = problem([1, 1, 1, 1, 1], like=1e-3)
    found = solve(single(layer), [1, 1, 1, 1, 1], noise=Blur())
    assert found.rank < 5
    error = torch.cdist(found.features, features).min(1).values / features[0].norm()
    assert (error <= 3 * found.error).all()


def test_another_networks_gradient_is_not_certified() -> None:
    layer, _ = problem([1, 1, 6])
    other, _ = problem([1, 1, 6], seed=1)
    mixed = Layer(other.weight, other.bias, layer.dweight, layer.dbias, 3)
    assert not solve(mixed, [1, 1, 6]).certified


def test_same_seed_same_bits_and_no_global_draws() -> None:
    layer, _ = problem([2, 2])
    before = torch.get_rng_state()
    first, second = solve(layer, [2, 2]), solve(layer, [2, 2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.features, second.features)


def test_reads_an_observation(observe: Observe) -> None:
    model, batch = mlp(width=32), images(3)
    observation = observe(model, batch)
    found = recover_features(observation, torch.Generator().manual_seed(0))
    assert isinstance(found, Unmixed)
    features = model[:-1](batch.inputs).detach().double()
    assert found.certified
    assert apart(found, features).max() < 1e-3


def test_says_why_it_reads_nothing(observe: Observe) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh())
    assert "not that of a linear layer" in str(
        recover_features(observe(hidden, images(2)), generator)
    )
    assert "cannot tell 5" in str(recover_features(observe(mlp(), images(5)), generator))


def test_a_known_defense_tells_the_noise(observe: Observe) -> None:
    model, batch = mlp(), images(3)
    defense = lg.defenses.GaussianNoise(std=1e-4)
    seen = observe(model, batch, under=defense)
    unknown = observe(model, batch, under=defense, defense=False)
    features = model[:-1](batch.inputs).detach().double()

    def error(observation: lg.Observation) -> float:
        found = recover_features(observation, torch.Generator().manual_seed(0))
        assert isinstance(found, Unmixed)
        return float(torch.cdist(found.features, features).min(1).values.mean())

    assert error(seen) < error(unknown)
