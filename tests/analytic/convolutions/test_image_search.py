"""The search for an image: derivatives along directions, least squares of each example, and local restarts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.analytic.convolutions import activations
from leakgauge.analytic.convolutions.activations import Imaging
from leakgauge.analytic.convolutions.least_squares import solve_each
from leakgauge.analytic.convolutions.local_restarts import LocalRestarts, refilled
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.analytic.convolutions.repairs import Earlier, Explained, Repair
from leakgauge.analytic.convolutions.tangents import Tangents
from leakgauge.analytic.convolutions.terms import ForSome, Term, Terms
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.analytic.convolutions.waves import WaveObjective, Waves


class Branches(nn.Module):
    """A network with operations of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.side = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.GELU())
        self.end = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 3, 3, padding=1), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.side(y)
        return self.end(torch.cat([y, y * torch.sigmoid(y)], 1)).flatten(1)


def traced(model: nn.Module, channels: int) -> Network:
    """Return the graph of a model in eval mode, with weights of its own."""
    with lg.Seeds(0).isolated("weights"):
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.5)
    network = trace(model.eval(), lg.ImageDomain(channels, 8, 8))
    assert not isinstance(network, lg.Inapplicable)
    return network


def images(count: int, channels: int) -> Tensor:
    """Return smooth images of random colors."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((count, channels, 3, 3), generator=generator)
    return nn.functional.interpolate(coarse, (8, 8), mode="bilinear").double()


def test_tangents_are_directional_derivatives() -> None:
    network = traced(Branches(), 2)
    x, along = images(3, 2), torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2))

    def through(inputs: Tensor) -> Tensor:
        return network.evaluate([network.end], {network.entry: inputs})[network.end]

    _, expected = torch.func.jvp(through, (x,), (along.double(),))
    found = Tangents(network, [network.end], x, network.state)(along.double())
    torch.testing.assert_close(found[network.end], expected)


def test_softened_relus_come_close_to_the_network() -> None:
    network = traced(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), 2)
    x = images(2, 2)
    plain = network.evaluate([network.end], {network.entry: x})[network.end]
    apart = []
    for softness in (0.1, 0.01):
        soft = replace(network, softness=softness)
        found = soft.evaluate([soft.end], {soft.entry: x})[soft.end]
        apart.append(float((found - plain).abs().max()))
    assert 0 < apart[1] < 0.2 * apart[0]


def known_terms(count: int) -> tuple[Terms, Tensor]:
    """Return what is known of images: the outputs of two layers with ReLU. Return the images, too."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
    )
    network, truth = traced(model, 1), images(count, 1)
    aim = network.evaluate([network.end], {network.entry: truth})[network.end]
    weight = 1 / aim.square().flatten(1).sum(1)
    return Terms(network, lambda unit: unit, [Term(network.end, aim, weight)]), truth


def test_least_squares_finds_each_image_to_the_digits_of_float64() -> None:
    terms, truth = known_terms(3)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3)).double()
    start = truth + 0.02 * noise
    start[1] = truth[1]  # An example that is done must not change.
    everyone = torch.arange(3)
    end = solve_each(ForSome(terms, everyone), start, steps=20, inner=60)
    assert float((end.inputs - truth).abs().max()) < 1e-9
    assert float(end.values.max()) < 1e-16
    alone = solve_each(ForSome(terms, everyone[2:]), start[2:], steps=20, inner=60)
    torch.testing.assert_close(alone.inputs, end.inputs[2:], atol=1e-9, rtol=0)


def test_local_restarts_mend_a_wrong_region() -> None:
    terms, truth = known_terms(2)
    broken = truth.clone()
    broken[0, :, 2:6, 2:6] = 1 - broken[0, :, 2:6, 2:6]
    waves = Waves((8, 8), torch.zeros((), dtype=torch.float64))
    which = torch.arange(2)
    restarts = LocalRestarts(terms, which, waves)
    place = int(restarts.misfits(broken)[0].argmax())
    assert 2 <= place // 8 <= 5
    assert 2 <= place % 8 <= 5
    before = WaveObjective(terms, which, waves)(waves.coefficients(broken), 0.0)
    found = restarts.run(waves.coefficients(broken), torch.Generator().manual_seed(0))
    assert float(found.values[0]) < 0.1 * float(before[0])
    assert float(found.values[1]) <= float(before[1])


@pytest.mark.parametrize("size", [(16,), (16, 16), (8, 8, 8)])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_region_is_refilled_where_the_misfit_is(size: tuple[int, ...], kind: int) -> None:
    unit = torch.rand((2, *size), generator=torch.Generator().manual_seed(4))
    energy = torch.full(size, 1e-9)
    energy[(3,) * len(size)] = 1.0
    new = refilled(unit, energy, kind, torch.Generator().manual_seed(0))
    changed = (new != unit).any(0)
    assert bool(changed[(3,) * len(size)]) or kind == 2
    assert 0 < int(changed.sum()) < changed.numel()


@dataclass
class Masks:
    """Gradients whose misfit counts the wrong bits of one mask."""

    known: Propagation
    truth: Tensor
    trials: int = 0

    def explain(self) -> Explained:
        """Return the misfit with the present mask. No gap shows where it comes from."""
        self.trials += 1
        (relu,) = self.known.masks
        wrong = int((self.known.masks[relu] != self.truth).sum())
        layer = self.known.network.convolutions[0]
        nothing = torch.zeros(0, 0)
        return Explained([(layer, None)], torch.zeros(1, 0, 0), nothing, None, 1e-3 * wrong)  # type: ignore[list-item]


@pytest.mark.parametrize("rank", [0, 7, 100])
def test_the_least_certain_bits_are_tried_one_by_one(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 8th least certain bit is tried; one that is as sure as most is not."""
    network = traced(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), 1)
    relu = next(node for node in network.graph.nodes if is_relu(node))
    known = Propagation(network, 1)
    truth = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(5))
    margins = torch.empty(256)
    margins[order] = torch.arange(256.0)
    known.margins[relu] = margins.reshape(truth.shape)
    known.masks[relu] = truth.clone()
    known.masks[relu].view(-1)[order[rank]] = True
    masks = Masks(known, truth)
    repair = Repair(known, masks.explain, least=1e-9, sure=1e-5)
    monkeypatch.setattr(Repair, "_flips", lambda self, state, share: {})
    found = repair.run()
    assert not isinstance(found, lg.Inapplicable)
    assert (found[0].misfit == 0, found[1]) == (rank < 40, int(rank < 40))
    assert bool((known.masks[relu] == truth).all()) == (rank < 40)


def test_a_bit_that_its_own_layer_hides_is_found_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mask behind an earlier layer is searched, with the signals of before it."""
    network = traced(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), 1)
    relu = next(node for node in network.graph.nodes if is_relu(node))
    known = Propagation(network, 1, signals={relu: torch.ones(1)})
    truth = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    known.margins[relu] = torch.arange(256.0).reshape(truth.shape)
    known.masks[relu] = truth.clone()
    known.masks[relu].view(-1)[3] = True
    masks = Masks(known, truth)
    monkeypatch.setattr(Repair, "_flips", lambda self, state, share: {})
    monkeypatch.setattr(Repair, "_behind", lambda self, state: set())
    earlier = [Earlier([relu], {})]
    found = Repair(known, masks.explain, least=1e-9, sure=1e-5, earlier=earlier).run()
    assert not isinstance(found, lg.Inapplicable)
    assert (found[0].misfit, found[1]) == (0, 1)
    assert known.signals == {}, "the signals are computed again with the mask"


def imaging(terms: Terms, shape: tuple[int, ...]) -> Imaging:
    """Return a short search for images of a shape."""
    return Imaging(
        network=terms.network,
        enter=terms.enter,
        terms=terms.terms,
        shape=shape,
        like=torch.zeros(()),
        steps=4,
    )


@pytest.mark.parametrize("large", [False, True])
def test_large_images_end_without_exact_steps(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terms, truth = known_terms(2)
    monkeypatch.setattr(activations, "LARGE", 10 if large else 2**15)
    exact: list[int] = []
    plain = activations.finished
    monkeypatch.setattr(activations, "finished", lambda *a: exact.append(1) or plain(*a))
    search = imaging(terms, tuple(truth.shape[1:]))
    found = search.run(2, generator=torch.Generator().manual_seed(4), rounds=1)
    assert bool(exact) is not large
    assert found.unit.dtype == torch.float64
    assert bool(found.objectives.isfinite().all())
