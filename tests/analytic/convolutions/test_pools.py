"""Inputs of convolutions below max pools: places of maxima from a gradient, from a rough start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.convolutions import pool_descent
from leakgauge.analytic.convolutions.beginning import begin, descent_of
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.observed import read_problem
from leakgauge.analytic.convolutions.pools import read_below
from leakgauge.analytic.convolutions.problem import Beginning, Problem
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet


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


def with_pool(outputs: int) -> nn.Module:
    """Return three convolutions. The second one has these outputs and a max pool behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, outputs, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(outputs, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        ).eval()


def test_a_descent_goes_on_below_a_max_pool() -> None:
    observation = lg.examples.observation(batch_size=2, model=with_pool(outputs=64))
    attack = lg.attacks.ShiftConsistency(steps=15, rounds=1)
    found = attack(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED


@pytest.mark.parametrize(("outputs", "starts"), [(64, 2), (32, 1)])
def test_a_second_start_is_tried_only_if_the_gradient_has_many_equations(
    outputs: int, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[Tensor]()

    def refused(pooled: Pooled, start: Tensor, *, beat: Beat) -> Inapplicable:
        tried.append(start)
        return Inapplicable("a bad start")

    monkeypatch.setattr(pool_descent, "read_below", refused)
    observation = lg.examples.observation(batch_size=3, model=with_pool(outputs))
    problem = read_problem(observation)
    assert isinstance(problem, Problem)
    begun = begin(problem, generator=torch.Generator().manual_seed(0))
    assert isinstance(begun, Beginning)
    descent = descent_of(problem, begun, quiet)
    descent.run()

    def rough(node: fx.Node, behind: fx.Node, known: Tensor) -> Iterator[Tensor]:
        return (drawn(3, 16, 8, 8, seed=seed) for seed in range(5))

    pool_descent.descend_below_pools(descent, rough)
    assert len(tried) == starts
    assert ("No other start was tried" in descent.stopped) == (starts == 1)
