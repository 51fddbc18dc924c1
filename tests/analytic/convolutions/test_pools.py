"""Inputs of convolutions below max pools: places of maxima from a gradient, from a rough start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.pools import read_below
from leakgauge.core import Inapplicable


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled(batch: int, kernel: int, stride: int, norm: bool) -> tuple[Pooled, Tensor]:
    """Return a max pool behind a convolution with ReLU, and the convolution's true input."""
    inputs = drawn(batch, 16, 8, 8).relu()
    weight = drawn(48, 16, 3, 3, seed=1).requires_grad_()
    factor = drawn(48, seed=2) if norm else torch.ones(48, dtype=torch.float64)
    shift, signal = 0.3 * drawn(48, seed=3), drawn(batch, 48, 8, 8, seed=4)
    outputs = functional.conv2d(inputs, weight, padding=1)
    before = (outputs * factor[:, None, None] + shift[:, None, None]).relu()
    value = functional.max_pool2d(before, kernel, stride)
    signal = signal[..., : value.shape[-2], : value.shape[-1]]
    (dweight,) = torch.autograd.grad((value * signal).sum(), weight)
    found = Pooled(
        geometry=geometry_of((8, 8), kernel=(3, 3), padding=1),
        weight=weight.detach().flatten(2),
        dweight=dweight.float().double().flatten(2),
        factor=factor,
        shift=shift,
        windows=geometry_of((8, 8), kernel=(kernel, kernel), stride=stride).sees,
        value=value.detach().flatten(2),
        signal=signal.flatten(2),
        rectified=True,
        positive=True,
    )
    return found, inputs.flatten(2)


@pytest.mark.parametrize(
    ("batch", "kernel", "stride", "norm"), [(1, 2, 2, False), (2, 2, 2, True), (1, 3, 2, False)]
)
def test_the_input_below_a_max_pool_is_exact_from_a_rough_start(
    batch: int, kernel: int, stride: int, norm: bool
) -> None:
    given, truth = pooled(batch, kernel, stride, norm)
    found = read_below(given, truth + 0.5 * drawn(*truth.shape, seed=7))
    assert not isinstance(found, Inapplicable)
    assert float((found.inputs - truth).norm() / truth.norm()) < 1e-5


def test_a_wrong_value_behind_a_max_pool_is_refused_in_numbers() -> None:
    given, truth = pooled(1, 2, 2, False)
    given.value.mul_(1 + 0.1 * drawn(*given.value.shape, seed=9))
    found = read_below(given, truth)
    assert isinstance(found, Inapplicable)
    assert "relative misfit" in found.reason


def test_a_descent_goes_on_below_a_max_pool() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        ).eval()
    observation = lg.examples.observation(batch_size=2, model=model)
    attack = lg.attacks.ShiftConsistency(steps=15, rounds=1)
    found = attack(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
