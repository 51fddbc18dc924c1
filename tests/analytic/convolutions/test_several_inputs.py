"""Networks whose layers read several earlier outputs: spans by columns, bounds, and the joint descent."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import leakgauge as lg
from leakgauge.analytic.convolutions.determined_parts import determined_parts
from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.intervals import Intervals
from leakgauge.analytic.convolutions.layer_readings import Reading, read_layer
from leakgauge.analytic.convolutions.layer_spans import (
    exchanged,
    most_by_columns,
    most_by_rows,
    span_of_inputs,
)
from leakgauge.analytic.convolutions.observed import read_problem
from leakgauge.analytic.convolutions.problem import Outline, Problem
from leakgauge.analytic.convolutions.several_inputs import label, readable, why_unread
from leakgauge.core import Inapplicable

DOMAIN = lg.ImageDomain(3, 8, 8)


class Dense(nn.Module):
    """A convolution whose output is appended to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.norm(x).relu())], 1)


def dense(seed: int = 0) -> nn.Module:
    """Return a DenseNet with 4 x 4 places: many input channels, and fewer output channels than positions."""
    with lg.Seeds(seed).isolated("weights"):
        model = nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1, stride=2),
            Dense(48, 8),
            Dense(56, 8),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return model.eval()


class UNet(nn.Module):
    """One level: the input of the second convolution is appended to what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.down = nn.Conv2d(24, 32, 3, padding=1)
        self.up = nn.Conv2d(56, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        small = nn.functional.max_pool2d(first, 2)
        deep = interpolate(self.down(small).relu(), scale_factor=2.0)
        last = self.up(torch.cat([deep, first], 1)).relu()
        logits: Tensor = self.head(last.mean((2, 3)))
        return logits


class Grouped(nn.Module):
    """A block of ResNeXt: a 3 x 3 convolution with groups between two 1 x 1 ones, and a shortcut around them."""

    def __init__(self, width: int = 64, groups: int = 2) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = (x + self.path(x)).relu()
        return found


def grouped() -> nn.Module:
    """Return two blocks with groups at 4 x 4 places."""
    with lg.Seeds(0).isolated("weights"):
        stem = [nn.Conv2d(3, 64, 3, padding=1, stride=2), nn.ReLU()]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
        model = nn.Sequential(*stem, Grouped(), Grouped(), *end)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return model.eval()


def observed(model: nn.Module, count: int = 1) -> tuple[lg.Batch, lg.Observation, Problem]:
    """Return a batch of equal labels, its update, and the problem that the update is."""
    draws = torch.Generator().manual_seed(count)
    batch = lg.Batch(torch.rand(count, 3, 8, 8, generator=draws), torch.full((count,), 3))
    client = lg.Client(
        model=model,
        loss=nn.functional.cross_entropy,
        domain=DOMAIN,
        classes=10,
        training=lg.FedSGD(),
    )
    seen = lg.Server(labels=False).observe(client, batch, seeds=lg.Seeds(0))
    problem = read_problem(seen)
    assert isinstance(problem, Problem)
    return batch, seen, problem


def truth(problem: Problem, batch: lg.Batch, name: str) -> Tensor:
    """Return the true input of the layer whose weight has a name."""
    network = problem.network
    (layer,) = (c for c in network.convolutions if c.name == name)
    return network.evaluate([layer.source], {network.entry: batch.inputs.double()})[layer.source]


def apart(found: Tensor, true: Tensor) -> Tensor:
    """Return the relative distance (B,) of each true input to the nearest one found."""
    gaps = (found[:, None] - true).flatten(2).norm(dim=2).amin(0)
    return gaps / true.flatten(1).norm(dim=1)


def test_counts_of_rows_and_columns() -> None:
    geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
    assert most_by_rows(geometry, 56, 8) == 0
    assert most_by_columns(geometry, 56, 8) == 3
    assert torch.equal(exchanged(exchanged(geometry)).sees, geometry.sees)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_columns_tell_the_inputs_of_few_output_channels(count: int) -> None:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 60, 4, 4, generator=draws, dtype=torch.float64).relu()
    weight = torch.randn(12, 60, 3, 3, generator=draws, dtype=torch.float64).requires_grad_()
    signal = torch.randn(count, 12, 4, 4, generator=draws, dtype=torch.float64)
    outputs = nn.functional.conv2d(inputs, weight, padding=1)
    (dweight,) = torch.autograd.grad((outputs * signal).sum(), weight)
    geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
    found = span_of_inputs(dweight.float().double(), geometry, count, error=6e-8, generator=draws)
    assert not isinstance(found, Inapplicable)
    assert found.way == "columns"
    aim = nn.functional.normalize(inputs.flatten(1), dim=1)
    basis = found.basis.flatten(1)
    assert float((aim - (aim @ basis.T) @ basis).norm()) < 1e-5


@pytest.mark.parametrize("count", [1, 2])
def test_a_layer_alone_tells_each_input_with_its_scale(count: int) -> None:
    batch, _, problem = observed(dense(), count)
    layer = readable(problem)[0]
    reading = read_layer(problem, layer, generator=torch.Generator().manual_seed(0))
    assert isinstance(reading, Reading)
    true = truth(problem, batch, layer.name)
    assert float(apart(reading.value, true).max()) < 1e-3 * count


def test_too_few_channels_are_told_in_numbers() -> None:
    _, seen, problem = observed(dense(), 4)
    assert not readable(problem)
    plan = lg.attacks.ShiftConsistency().plan(seen)
    assert isinstance(plan, Inapplicable)
    assert "8 channels for 16 positions" in plan.reason


def test_bounds_behind_a_relu_determine_what_another_norm_lets_pass() -> None:
    batch, _, problem = observed(dense())
    network = problem.network
    first = next(c for c in network.convolutions if c.name == "1.conv.weight")
    value = truth(problem, batch, "1.conv.weight")
    found = Intervals(network, {first.source: value}, 1).determined()
    true = network.evaluate([problem.features], {network.entry: batch.inputs.double()})
    assert torch.allclose(found[problem.features], true[problem.features])
    labels, misfit = label(problem, found[problem.features].flatten(1))
    assert labels.tolist() == [3]
    assert misfit < 1e-6


def test_a_densenet_is_read_through_one_of_its_layers() -> None:
    batch, seen, _ = observed(dense())
    found = lg.attacks.ShiftConsistency(steps=20)(seen, seeds=lg.Seeds(0))
    assert found.targets is not None
    assert found.targets.tolist() == [3]
    assert found.status != lg.Status.INAPPLICABLE
    assert float((found.inputs - batch.inputs).abs().max()) < 1e-3


def test_a_u_net_is_read_around_its_shortcut() -> None:
    with lg.Seeds(1).isolated("weights"):
        model = UNet().eval()
    batch, seen, _ = observed(model)
    found = lg.attacks.ShiftConsistency(steps=20)(seen, seeds=lg.Seeds(0))
    assert found.targets is not None
    assert found.targets.tolist() == [3]
    assert float((found.inputs - batch.inputs).abs().max()) < 1e-2


def test_groups_are_read_one_by_one_and_joined_by_the_shift_beside_them() -> None:
    batch, seen, problem = observed(grouped())
    (layer,) = (c for c in problem.network.convolutions if c.name == "3.path.3.weight")
    reading = read_layer(problem, layer, generator=torch.Generator().manual_seed(0))
    assert isinstance(reading, Reading)
    assert float(apart(reading.value, truth(problem, batch, layer.name)).max()) < 1e-4
    found = lg.attacks.ShiftConsistency(steps=20)(seen, seeds=lg.Seeds(0))
    assert found.targets is not None
    assert found.targets.tolist() == [3]
    assert float((found.inputs - batch.inputs).abs().max()) < 1e-3


def test_groups_of_a_batch_do_not_tell_which_inputs_belong_together() -> None:
    _, _, problem = observed(nn.Sequential(nn.MaxPool2d(2), grouped()), 1)
    network = problem.network
    (layer,) = (c for c in network.convolutions if c.name == "1.3.path.3.weight")
    outline = Outline(
        network=network, gradients=problem.gradients, features=problem.features, count=2
    )
    assert why_unread(outline, layer) == (
        "1.3.path.3.weight: its 2 groups do not tell which of their inputs belong together"
    )


def test_parts_of_an_open_input_are_told_for_each_example() -> None:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, 16, generator=draws, dtype=torch.float64)
    signal = torch.randn(2, 40, 16, generator=draws, dtype=torch.float64)
    # The first example has equal signals in pairs of places, and the second is open in one direction.
    signal[0, :, 1::2] = signal[0, :, ::2]
    signal[1, :, 1] = signal[1, :, 0]
    geometry = geometry_of((4, 4), kernel=(1, 1))
    dweight = torch.einsum("bop,bcp->oc", signal, inputs)[..., None]
    marks = torch.ones_like(signal, dtype=torch.bool)
    found = determined_parts([GradientOf(geometry, dweight, signal, marks, ~marks)])
    assert found is not None
    matrix, right = found
    assert matrix.square().sum((1, 2)).round().tolist() == [8, 15]
    assert torch.allclose(matrix @ inputs.mT, right)
