"""Descents that begin inside the last block of a network, whose shortcut goes around the convolution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.analytic.convolutions.beginning import begin, descent_of, why_none_begins
from leakgauge.analytic.convolutions.observed import read_problem
from leakgauge.analytic.convolutions.problem import Beginning, Problem
from leakgauge.analytic.convolutions.shortcut_beginning import (
    ShortcutBlock,
    begin_behind_shortcut,
    shortcut_block,
)
from leakgauge.core import ImageDomain, Inapplicable

DOMAIN = ImageDomain(3, 8, 8)


class Bottleneck(nn.Module):
    """Three convolutions with BatchNorm, and a shortcut around them."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.short = nn.Sequential(short, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        found: Tensor = (self.path(x) + self.short(x)).relu()
        return found


def network(head: nn.Module | None = None) -> nn.Module:
    """Return a network of two bottlenecks in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        blocks = [Bottleneck(32, 64, 128, 2), Bottleneck(128, 64, 128, 1)]
        end = [head or nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10)]
        model = nn.Sequential(*stem, *blocks, *end)
        model(torch.zeros(1, 3, 8, 8))
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.bias, std=0.2)
                nn.init.uniform_(layer.weight, 0.7, 1.3)
    return model.eval()


def observed(model: nn.Module, batch: int) -> tuple[lg.Batch, Problem]:
    """Return a batch of equal labels and the problem that its update poses."""
    draws = torch.Generator().manual_seed(batch)
    coarse = torch.rand(batch, 3, 2, 2, generator=draws)
    inputs = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    whole = lg.Batch(inputs, torch.full((batch,), 4))
    client = lg.Client(
        model=model,
        loss=nn.functional.cross_entropy,
        domain=DOMAIN,
        classes=10,
        training=lg.FedSGD(),
    )
    server = lg.Server(labels=False)
    problem = read_problem(server.observe(client, whole, seeds=lg.Seeds(0)))
    assert not isinstance(problem, Inapplicable)
    return whole, problem


@pytest.mark.parametrize("batch", [1, 4])
def test_features_and_labels_are_exact_down_to_the_block_below(batch: int) -> None:
    model = network()
    whole, problem = observed(model, batch)
    assert why_none_begins(problem) is None
    found = begin(problem, generator=lg.Seeds(0).generator("span"))
    assert isinstance(found, Beginning)
    assert found.labels.tolist() == [4] * batch
    descent = descent_of(problem, found, lambda: None)
    descent.run()
    assert len(descent.steps) >= 5
    # The input of the last block, which its first convolution and its shortcut share.
    block = next(c for c in problem.network.convolutions if c.name == "4.path.0.weight").source
    with torch.no_grad():
        truth = model[:4](whole.inputs).double().flatten(1)
    value = descent.known.values[block].flatten(1)
    error = (value[:, None] - truth).norm(dim=2) / truth.norm(dim=1)
    assert sorted(error.argmin(1).tolist()) == list(range(batch))
    assert float(error.amin(1).max()) < 1e-5


def test_a_wrong_gradient_of_the_next_convolution_is_refused_in_numbers() -> None:
    _, problem = observed(network(), 1)
    block = shortcut_block(problem)
    assert isinstance(block, ShortcutBlock)
    assert block.layer.name == "4.path.3.weight"
    assert block.after.name == "4.path.6.weight"
    wrong = problem.gradients[block.after.name].roll(1, 0)
    changed = replace(problem, gradients={**problem.gradients, block.after.name: wrong})
    found = begin_behind_shortcut(changed, block, generator=lg.Seeds(0).generator("span"))
    assert isinstance(found, Inapplicable)
    assert "relative misfit" in found.reason


def test_a_wrong_shift_is_refused_in_numbers() -> None:
    _, problem = observed(network(), 4)
    block = shortcut_block(problem)
    assert isinstance(block, ShortcutBlock)
    wrong = problem.gradients[block.shift.name].roll(1, 0)
    changed = replace(problem, gradients={**problem.gradients, block.shift.name: wrong})
    found = begin_behind_shortcut(changed, block, generator=lg.Seeds(0).generator("span"))
    assert isinstance(found, Inapplicable)
    assert "the shift behind it" in found.reason


def test_without_a_gradient_of_the_shift_nothing_begins() -> None:
    _, problem = observed(network(), 1)
    block = shortcut_block(problem)
    assert isinstance(block, ShortcutBlock)
    fewer = {k: v for k, v in problem.gradients.items() if k != block.shift.name}
    other = shortcut_block(replace(problem, gradients=fewer))
    assert isinstance(other, Inapplicable) or other.shift.name != block.shift.name


def test_batches_beyond_the_span_have_no_block() -> None:
    _, problem = observed(network(), 1)
    assert isinstance(shortcut_block(replace(problem, count=64)), Inapplicable)
