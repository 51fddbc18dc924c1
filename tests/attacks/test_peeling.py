"""Peeling is exact through ReLU and max pools where gradients determine layer inputs. Elsewhere it says why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal
from torch import nn

import leakgauge as lg
from leakgauge.analytic.chain import Chain, chain_of
from leakgauge.analytic.peeling import Known, peel, windows_of
from leakgauge.attacks import RGAP, Peeling
from leakgauge.inversion import Spectral, WarmStart

Observe = Callable[..., lg.Observation]
GRAY = lg.ImageDomain(1, 8, 8)


def pooled(*, kind: str = "plain", seed: int = 0) -> nn.Module:
    """Return two 3x3 convolutions, each followed by ReLU and a max pool, and a linear layer."""
    pool = nn.MaxPool2d(3, 2, padding=1) if kind == "overlapping" else nn.MaxPool2d(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((1, 24), (24, 32)):
            layers.append(nn.Conv2d(before, after, 3, padding=1))
            if kind == "normalized":
                layers.append(normalization(after))
            behind = [nn.ReLU(), pool]
            layers += reversed(behind) if kind == "pool first" else behind
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 4)).eval()


def digit(index: int) -> lg.Batch:
    """Return a handwritten digit, an image with similar neighboring pixels. Its label is one of four classes."""
    data = lg.data.digits()
    return lg.Batch(data.inputs[index : index + 1], data.targets[index : index + 1] % 4)


def normalization(channels: int) -> nn.Module:
    """Return a BatchNorm layer with random statistics and weights."""
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.running_mean, -0.2, 0.2)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    return layer


@pytest.mark.parametrize("kind", ["plain", "pool first"])
def test_exact_through_pools(kind: str, observe: Observe) -> None:
    batch = digit(3)
    observation = observe(pooled(kind=kind), batch)
    assert refusal(RGAP(), observation) is not None
    guess = Peeling(rough=60, steps=120)(observation, seeds=lg.Seeds(0))
    assert psnr(batch.inputs, guess.inputs).min() > 50
    assert guess.status is lg.Status.CONVERGED
    assert guess.targets is not None
    assert torch.equal(guess.targets, batch.targets)


def test_reads_the_first_layer_without_pools(observe: Observe) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 4)
        )
    batch = images(1)
    guess = Peeling()(observe(model, batch), seeds=lg.Seeds(0))
    assert psnr(batch.inputs, guess.inputs).min() > 80
    assert guess.cost.evaluations == 1  # There is no descent.


def behind_a_pool(model: nn.Module, batch: lg.Batch) -> tuple[Chain, Known, torch.Tensor]:
    """Return the chain, its linear layer with known input, and the gradient of the convolution before it."""
    chain = chain_of(model, GRAY)
    assert isinstance(chain, Chain)
    loss = nn.functional.cross_entropy(chain.model(batch.inputs.double()), batch.targets)
    loss.backward()
    linear = chain.layers[-1].module
    assert linear.bias is not None
    assert linear.bias.grad is not None
    assert linear.weight.grad is not None
    row = int(linear.bias.grad.abs().argmax())
    features = linear.weight.grad[row] / linear.bias.grad[row]
    gradient = chain.layers[-2].module.weight.grad
    assert gradient is not None
    return chain, Known(len(chain.layers) - 1, features, linear.bias.grad), gradient


@pytest.mark.parametrize("kind", ["plain", "pool first", "overlapping", "normalized"])
def test_the_places_of_a_pool_are_found_from_a_rough_image(kind: str) -> None:
    batch = images(1, seed=5)
    chain, known, gradient = behind_a_pool(pooled(kind=kind), batch)
    noise = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0))
    rough = (batch.inputs + 0.1 * noise).double()
    told = peel(chain, known, gradient, rough, noise=2.0**-53)
    assert isinstance(told, Known)
    layer = chain.layers[0]
    with torch.no_grad():
        truth = layer.activate(layer.module(batch.inputs.double())[0])
    assert told.misfit < 1e-9
    assert (told.x - truth).norm() < 1e-6 * truth.norm()


def test_a_gradient_of_another_example_is_not_explained() -> None:
    chain, known, _ = behind_a_pool(pooled(), images(1, seed=5))
    _, _, other = behind_a_pool(pooled(), images(1, seed=6))
    rough = images(1, seed=5).inputs.double()
    told = peel(chain, known, other, rough, noise=2.0**-53)
    assert isinstance(told, Known)
    assert told.misfit > 1e-2


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.MaxPool2d(3), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2, 1)]
)
def test_windows_are_those_of_the_pool(pool: nn.MaxPool2d) -> None:
    plane = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    windows = windows_of(pool, (1, 8, 8))
    values = plane.flatten()[windows.clamp_min(0)].masked_fill(windows < 0, -torch.inf)
    assert torch.equal(values.max(1).values, pool(plane).flatten())


@pytest.mark.parametrize(
    ("model", "count", "reason"),
    [
        (pooled(), 3, "the batch has 3"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4)),
            1,
            "AvgPool",
        ),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), 1, "is a convolution"),
    ],
)
def test_what_it_cannot_do_has_a_reason(
    model: nn.Module, count: int, reason: str, observe: Observe
) -> None:
    found = refusal(Peeling(), observe(model, images(count)))
    assert found is not None
    assert reason in found


def test_under_noise_it_says_that_no_input_fits(observe: Observe) -> None:
    noisy = observe(pooled(), images(1), under=lg.defenses.GaussianNoise(std=1e-2))
    guess = Peeling(rough=20, steps=20)(noisy, seeds=lg.Seeds(0))
    assert guess.status is lg.Status.UNCONVERGED
    assert any("fits its gradient" in note for note in guess.notes)


def test_an_mlp_is_left_to_the_linear_layer_alone(observe: Observe) -> None:
    batch = images(1)
    guess = Peeling()(observe(mlp(), batch), seeds=lg.Seeds(0))
    assert psnr(batch.inputs, guess.inputs).min() > 80


def test_a_guess_is_where_the_search_starts() -> None:
    unit = images(2).inputs
    observation = lg.Server().observe(client(mlp()), images(2), seeds=lg.Seeds(0))
    start = WarmStart(base=Spectral(center=0.5), initial=unit)
    variables = start.start(observation, torch.Generator())
    torch.testing.assert_close(start.decode(variables), unit)
    coefficients = torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Spectral().encode(Spectral().decode(coefficients)), coefficients)
