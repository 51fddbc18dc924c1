"""Tests of masks and inputs from the gradient of the last convolution in front of a pooled head."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from leakgauge.analytic.convolutions.binary_masks import MaskedInputs, recover_masks
from leakgauge.analytic.convolutions.bounded_factors import (
    patches_of,
    readings_of,
    solve_within,
)
from leakgauge.analytic.convolutions.geometry import Geometry, geometry_of
from leakgauge.analytic.convolutions.pooled_head import (
    UNKNOWN,
    PooledHead,
    count_active,
    read_pooled_head,
)
from leakgauge.core import Inapplicable

SIDE, WIDTH, CLASSES = 5, 40, 6
GEOMETRY = geometry_of((SIDE, SIDE), kernel=(3, 3), padding=1)


class Tail(nn.Module):
    """The end of a residual network: convolution, BatchNorm, shortcut, ReLU, mean and linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.linear = nn.Linear(WIDTH, CLASSES)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias, std=0.3)

    def active(self, u: Tensor, shortcut: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(u)) + shortcut)

    def forward(self, u: Tensor, shortcut: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.active(u, shortcut).mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Case:
    """A tail, its gradient in float32, and the truth."""

    model: Tail
    gradient: dict[str, Tensor]
    inputs: Tensor
    active: Tensor

    @property
    def scale(self) -> Tensor:
        norm = self.model.norm
        assert norm.running_var is not None
        return (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()

    def head(self) -> PooledHead:
        found = read_pooled_head(
            self.gradient["linear.weight"],
            self.gradient["linear.bias"],
            self.model.linear.weight.detach(),
            SIDE**2,
        )
        assert isinstance(found, PooledHead)
        return found


def case(seed: int, dead: int = 0) -> Case:
    """Build a tail, of whose channels some are never or always active."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tail().eval()
        u = torch.randn(1, WIDTH, SIDE, SIDE).relu()
        shortcut = 0.5 * torch.randn(1, WIDTH, SIDE, SIDE).relu()
    with torch.no_grad():
        model.norm.bias[:dead] = 20.0
        model.norm.bias[dead : 2 * dead] = -20.0
    loss = functional.cross_entropy(model(u, shortcut), torch.tensor([1]))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradient = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    active = model.active(u, shortcut).detach()[0].flatten(1)
    return Case(model, gradient, u[0].flatten(1).double(), active)


def blurred(inputs: Tensor, part: float) -> Tensor:
    """Return a start (1, C, N) with a relative error."""
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(9))
    return (7.0 * (inputs + part * inputs.norm() / noise.norm() * noise.double()))[None]


def solve(case: Case, part: float = 0.1) -> MaskedInputs | Inapplicable:
    counted = count_active(
        case.gradient["conv.weight"], case.gradient["norm.bias"], case.scale, case.head(), SIDE**2
    )
    start = blurred(case.inputs, part)
    return recover_masks(
        counted.rows, counted.levels[:, None], counted.counts[:, None], start, GEOMETRY
    )


def test_the_head_tells_features_and_signal() -> None:
    made = case(0)
    head = made.head()
    assert head.residual < 1e-6
    assert head.features == pytest.approx(made.active.mean(1), rel=1e-4, abs=1e-6)
    counted = count_active(
        made.gradient["conv.weight"], made.gradient["norm.bias"], made.scale, head, SIDE**2
    )
    assert torch.equal(counted.counts, (made.active > 0).sum(1))


@pytest.mark.parametrize("sign", [1, -1])
def test_masks_and_inputs_are_exact_though_channels_are_dead(sign: int) -> None:
    """Five channels pass everywhere and five nowhere, which leaves rank 31 of 40."""
    made = case(1, dead=5)
    counted = count_active(
        made.gradient["conv.weight"], made.gradient["norm.bias"], made.scale, made.head(), SIDE**2
    )
    found = recover_masks(
        counted.rows,
        counted.levels[:, None],
        counted.counts[:, None],
        sign * blurred(made.inputs, 0.1),
        GEOMETRY,
    )
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert found.residual < 1e-5
    assert bool(found.told.all())
    assert torch.equal(found.masks[0], made.active > 0)
    assert float((found.inputs[0] - made.inputs).norm() / made.inputs.norm()) < 1e-5


def test_a_channel_of_unknown_count_gets_its_mask_from_the_inputs() -> None:
    made = case(2)
    counted = count_active(
        made.gradient["conv.weight"], made.gradient["norm.bias"], made.scale, made.head(), SIDE**2
    )
    counts = counted.counts.clone()
    counts[[3, 8]] = UNKNOWN
    start = blurred(made.inputs, 0.05)
    found = recover_masks(counted.rows, counted.levels[:, None], counts[:, None], start, GEOMETRY)
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert torch.equal(found.masks[0], made.active > 0)


def test_a_start_without_information_is_not_certified() -> None:
    made = case(3)
    counted = count_active(
        made.gradient["conv.weight"], made.gradient["norm.bias"], made.scale, made.head(), SIDE**2
    )
    start = torch.rand(1, WIDTH, SIDE**2, generator=torch.Generator().manual_seed(1))
    found = recover_masks(
        counted.rows,
        counted.levels[:, None],
        counted.counts[:, None],
        start,
        GEOMETRY,
        sweeps=20,
    )
    assert isinstance(found, MaskedInputs)
    assert not found.certified
    assert found.residual > 1e-3


def test_the_signs_of_the_levels_do_not_matter() -> None:
    """Two examples share the channels. Each level has its own sign."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, 8, 16, generator=generator, dtype=torch.float64).relu()
    geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
    masks = torch.rand(2, 40, 16, generator=generator) < 0.5
    levels = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    signals = levels[:, :, None] * masks.movedim(0, 1)
    rows = (signals.flatten(1) @ patches_of(inputs, geometry)).unflatten(1, (8, 9))
    start = inputs + 0.05 * torch.randn(inputs.shape, generator=generator)
    found = recover_masks(rows, levels, masks.sum(2).T, start, geometry)
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert torch.equal(found.masks, masks)


def test_too_few_channels_are_inapplicable_with_numbers() -> None:
    rows = torch.ones(2, 3, 9)
    found = recover_masks(
        rows, torch.ones(2, 1), torch.ones(2, 1), torch.ones(1, 3, SIDE**2), GEOMETRY
    )
    assert isinstance(found, Inapplicable)
    assert found.reason.startswith("18 equations (2 channels with a signal, 9 taps) for 25")


def test_a_head_without_slope_is_inapplicable() -> None:
    found = read_pooled_head(torch.zeros(3, 4), torch.zeros(3), torch.ones(3, 4), positions=4)
    assert isinstance(found, Inapplicable)


@pytest.mark.parametrize(
    "geometry",
    [
        GEOMETRY,
        geometry_of((7,), kernel=(3,), stride=2, padding=1),
        geometry_of((4, 4, 4), kernel=(2, 2, 2)),
    ],
)
def test_readings_are_the_gradient_as_a_map_of_the_inputs(geometry: Geometry) -> None:
    generator = torch.Generator().manual_seed(5)
    signals = torch.randn(4, 2, geometry.positions, generator=generator)
    inputs = torch.randn(2, 3, geometry.places, generator=generator)
    rows = signals.flatten(1) @ patches_of(inputs, geometry)
    read = readings_of(signals, geometry) @ inputs.movedim(0, 1).flatten(1).T
    expected = rows.unflatten(1, (3, geometry.taps)).movedim(1, 2).flatten(0, 1)
    assert read == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_bounded_least_squares_meets_the_conditions_of_a_minimum() -> None:
    generator = torch.Generator().manual_seed(6)
    root = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    gram, right = root.T @ root, torch.randn(4, 6, generator=generator, dtype=torch.float64) * 9
    low, high = torch.zeros(4, 6, dtype=torch.float64), torch.ones(4, 6, dtype=torch.float64)
    found = solve_within(gram, right, low, high, low, 2000)
    slope = found @ gram - right
    assert bool((slope[found <= 0] > -1e-6).all())
    assert bool((slope[found >= 1] < 1e-6).all())
    assert float(slope[(found > 0) & (found < 1)].abs().max()) < 1e-6
