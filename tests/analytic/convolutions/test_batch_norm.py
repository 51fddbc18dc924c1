"""Inversion through BatchNorm in train mode: scales, constants, masks and the walk down, against the truth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.convolutions.batch_norm import BatchPropagation
from leakgauge.analytic.convolutions.beginning import begin, descent_of
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.lost_constants import anchored, lost_classes
from leakgauge.analytic.convolutions.mask_sums import wrong_bits
from leakgauge.analytic.convolutions.observed import problem_of
from leakgauge.analytic.convolutions.problem import Beginning
from leakgauge.analytic.convolutions.relative_scales import relative_scales
from leakgauge.analytic.convolutions.span import row_space
from leakgauge.analytic.last_layer import last_layer
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import quiet


def drawn(*shape: int, seed: int = 1) -> Tensor:
    """Return normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Residual(nn.Module):
    """A block with a stride and a projection, a block without, and a pooled head. BatchNorm is in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.first = nn.Conv2d(16, 64, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.short = nn.Conv2d(16, 64, 1, stride=2, bias=False)
        self.third = nn.Conv2d(64, 96, 3, padding=1, bias=False)
        self.fourth = nn.Conv2d(96, 96, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (16, 64, 64, 64, 96, 96))
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.stem(x)).relu()
        y = self.norms[1](self.first(x)).relu()
        x = (self.norms[2](self.second(y)) + self.norms[3](self.short(x))).relu()
        x = self.norms[4](self.third(x)).relu()
        x = (self.norms[5](self.fourth(x)) + x).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def model() -> Residual:
    """Return the network in train mode, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Residual().train()


def test_the_walk_goes_down_to_the_first_block() -> None:
    observation = lg.examples.observation(batch_size=2, model=model())
    head = last_layer(observation)
    assert not isinstance(head, Inapplicable)
    problem = problem_of(observation, head)
    assert not isinstance(problem, Inapplicable)
    found = begin(problem, generator=torch.Generator().manual_seed(0))
    assert isinstance(found, Beginning)
    assert isinstance(found.known, BatchPropagation)
    descent = descent_of(problem, found, quiet)
    descent.run()
    network, known = problem.network, found.known
    images = lg.examples.batch(2).inputs.double()
    order = torch.arange(2)
    values = {node: known.values[node] for node in known.values if node in network.varying}
    truth = network.evaluate(values, {network.entry: observation.domain.from_unit(images)})
    start = next(iter(values))
    if float((values[start] - truth[start]).norm() / truth[start].norm()) > 0.1:
        order = order.flip(0)
    assert len(values) >= 3
    for node, value in values.items():
        error = float((value - truth[node][order]).norm() / value.norm())
        assert error < 1e-4, node
    assert "stem.weight" in descent.stopped


def test_the_patches_tell_the_relative_scales() -> None:
    inputs, weight = drawn(3, 8, 4, 4).relu(), drawn(60, 8, 3, 3, seed=2).requires_grad_()
    outputs = functional.batch_norm(
        functional.conv2d(inputs, weight, padding=1), None, None, training=True
    )
    (dweight,) = torch.autograd.grad((outputs * drawn(*outputs.shape, seed=3)).sum(), weight)
    space = row_space(dweight, error=1e-12)
    assert space.rank == 3 * 16 - 1
    geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
    factors = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)
    scales = relative_scales(inputs.flatten(2) * factors[:, None, None], space, geometry)
    assert torch.allclose(scales * factors, torch.ones_like(factors))


def test_constants_on_lost_classes_change_nothing_behind_batch_norm() -> None:
    inputs, weight = drawn(2, 3, 6, 6), drawn(4, 3, 3, 3)
    geometry = geometry_of((6, 6), kernel=(3, 3), stride=2, padding=1)
    (members,) = lost_classes([geometry])
    moved = inputs.flatten(2).clone()
    moved[:, :, members] += 5
    outputs = [
        functional.batch_norm(functional.conv2d(u, weight, None, 2, 1), None, None, training=True)
        for u in (inputs, moved.reshape(inputs.shape))
    ]
    assert torch.allclose(*outputs, atol=1e-4)
    nonnegative = inputs.relu().flatten(2)
    moved = nonnegative.clone()
    moved[:, :, members] += 5
    assert torch.allclose(anchored(moved, [members], 1e-9), nonnegative)
    assert not lost_classes([geometry_of((6, 6), kernel=(3, 3), padding=1)])


def test_the_shift_tells_wrong_bits() -> None:
    signal, value = drawn(2, 5, 16), drawn(2, 5, 16, seed=2)
    mask = value > 0
    dshift = (signal * mask).sum((0, 2))
    wrong = torch.zeros_like(mask)
    wrong[1, 3, value[1, 3].abs().argmin()] = True
    assert torch.equal(wrong_bits(signal, mask ^ wrong, value.abs(), dshift), wrong)
