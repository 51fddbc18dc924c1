"""Images behind a max pool whose outputs are known."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import max_pool2d

from leakgauge.analytic.convolutions.gradient_below import GradientBelow
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.pool_homotopy import (
    SAME,
    MaxPool,
    PoolHomotopy,
    PoolOutputs,
    max_pool_at,
    pool_outputs,
)
from leakgauge.analytic.convolutions.terms import Term
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.analytic.convolutions.waves import Waves
from leakgauge.core import ImageDomain, Inapplicable

DOMAIN = ImageDomain(3, 16, 16)


@cache
def stem(rectified: bool = True) -> tuple[nn.Module, Network]:
    """Return a network that begins with a convolution and a pool of overlapping windows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 48, 5, padding=2)
        model = nn.Sequential(
            first,
            *([nn.ReLU()] if rectified else []),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(48, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 10),
        )
    network = trace(model.double(), DOMAIN)
    assert not isinstance(network, Inapplicable)
    return model, network


def output_of_pool(network: Network) -> fx.Node:
    """Return the node of the first pool's output."""
    return network.convolutions[1].source


def smooth(count: int, seed: int) -> Tensor:
    """Return images of few waves, in [0, 1]."""
    draws = torch.Generator().manual_seed(seed)
    waves = torch.zeros(count, 3, 16, 16, dtype=torch.float64)
    waves[..., :8, :8] = torch.randn(count, 3, 8, 8, generator=draws, dtype=torch.float64)
    return Waves((16, 16), waves).image(1.2 * waves).clamp(0, 1)


def known_outputs(network: Network, images: Tensor) -> PoolOutputs:
    """Return the pool's outputs for images."""
    node = output_of_pool(network)
    with torch.no_grad():
        value = network.evaluate([node], {network.entry: images})[node]
    found = pool_outputs(Term(node, value, torch.ones(len(images))))
    assert found is not None
    return found


class TestMaxPool:
    @pytest.mark.parametrize("rectified", [True, False])
    def test_pool_and_its_input_are_found(self, rectified: bool) -> None:
        _, network = stem(rectified)
        pool = max_pool_at(output_of_pool(network))
        assert isinstance(pool, MaxPool)
        assert pool.before is network.convolutions[0].node
        assert pool.rectified is rectified
        assert pool.windows.shape == (64, 9)

    def test_other_nodes_are_no_pool(self) -> None:
        _, network = stem()
        assert max_pool_at(network.entry) is None
        assert max_pool_at(network.convolutions[0].node) is None

    def test_entries_and_gradients_are_no_outputs(self) -> None:
        _, network = stem()
        node, value = output_of_pool(network), torch.zeros(1, 48, 8, 8)
        assert pool_outputs(Term(node, value, torch.ones(1, 48, 8, 8))) is None
        assert pool_outputs(Term(node, value, torch.ones(1), torch.ones(1, 1))) is None


class TestPoolOutputs:
    @pytest.mark.parametrize("rectified", [True, False])
    def test_bounds_hold_and_open_places_hold_the_maxima(self, rectified: bool) -> None:
        model, network = stem(rectified)
        images = smooth(2, 1)
        outputs = known_outputs(network, images)
        values = model[0](images).detach().flatten(2)
        assert bool((values <= outputs.bounds + 1e-12).all())
        best = outputs.view(values, -torch.inf).argmax(-1, keepdim=True)
        assert bool(outputs.open.gather(3, best)[..., 0][outputs.shown].all())
        per_window = outputs.open.sum(-1)[outputs.shown].double().mean()
        assert float(per_window) < 6

    def test_no_other_value_is_likelier_when_errors_vanish(self) -> None:
        model, network = stem()
        images = smooth(1, 2)
        outputs = known_outputs(network, images)
        draws = torch.Generator().manual_seed(3)
        values = model[0](images).detach().flatten(2)
        moved = values + 0.05 * torch.randn(values.shape, generator=draws, dtype=torch.float64)
        assert float(outputs.misfit(values, 0.01)) < float(outputs.misfit(moved, 0.01))

    def test_equations_count_the_places_of_maxima(self) -> None:
        model, network = stem()
        images = smooth(2, 4)
        outputs = known_outputs(network, images)
        before = model[0](images).detach()
        _, places = max_pool2d(before.relu(), 3, 2, 1, return_indices=True)
        for i in range(2):
            shown = outputs.shown[i]
            alone = [places[i, c].flatten()[shown[c]].unique() for c in range(48)]
            assert int(outputs.equations(before.flatten(2))[i]) == sum(map(len, alone))

    def test_rounding_leaves_the_open_places(self) -> None:
        _, network = stem()
        outputs = known_outputs(network, smooth(1, 5))
        draws = torch.Generator().manual_seed(6)
        noise = torch.randn(outputs.value.shape, generator=draws, dtype=torch.float64)
        moved = torch.where(outputs.shown, outputs.value + 0.01 * SAME * outputs.size * noise, 0)
        rounded = PoolOutputs(outputs.pool, moved)
        assert bool((rounded.open >= outputs.open).all())


class TestPoolHomotopy:
    def test_images_are_found_from_plain_gray(self) -> None:
        _, network = stem()
        images = smooth(2, 7)
        search = PoolHomotopy(network, DOMAIN.from_unit, known_outputs(network, images))
        waves = Waves((16, 16), torch.zeros(()))
        fractions: list[float] = []
        found = search.run(
            torch.arange(2),
            waves,
            torch.zeros(2, 3, 16, 16),
            steps=30,
            tell=lambda done, _: fractions.append(done),
        )
        error = (waves.image(found.inputs) - images).square().flatten(1).mean(1)
        assert bool((error < 1e-3).all())
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1

    def test_few_places_do_not_determine_an_image(self) -> None:
        _, network = stem()
        images = smooth(1, 8)
        outputs = known_outputs(network, images)
        every = PoolHomotopy(network, DOMAIN.from_unit, outputs)
        assert bool(every.determined(torch.arange(1), images))
        few = outputs.value.clone()
        few[:, 8:] = 0
        less = PoolHomotopy(network, DOMAIN.from_unit, PoolOutputs(outputs.pool, few))
        assert not bool(less.determined(torch.arange(1), images))


class TestGradientBelow:
    def known_below(self) -> tuple[Network, GradientBelow, PoolOutputs, Tensor]:
        """Return the gradient of the first convolution for one image, with the pool's signals."""
        model, network = stem()
        image = smooth(1, 9)
        before = model[0](image)
        value = max_pool2d(before.relu(), 3, 2, 1)
        draws = torch.Generator().manual_seed(10)
        signal = torch.randn(value.shape, generator=draws, dtype=torch.float64)
        (dweight,) = torch.autograd.grad((value * signal).sum(), [model[0].weight])
        outputs = known_outputs(network, image)
        layer = network.convolutions[0]
        assert layer.bias is not None
        pooled = Pooled(
            geometry=layer.geometry,
            weight=layer.weight.flatten(2),
            dweight=dweight.flatten(2),
            factor=torch.ones(48, dtype=torch.float64),
            shift=layer.bias.flatten(),
            windows=outputs.pool.windows,
            value=outputs.value,
            signal=signal.flatten(2),
            rectified=True,
            positive=False,
        )
        return network, GradientBelow(layer.source, pooled), outputs, image

    def test_right_places_leave_nothing_of_the_gradient(self) -> None:
        model, _ = stem()
        _, below, outputs, image = self.known_below()
        places = outputs.places(model[0](image).detach().flatten(2), 1e-3)
        gap = below.gap(image.flatten(2), below.signal(places))
        assert float(gap.norm() / below.pooled.dweight.norm()) < 1e-2

    def test_the_gradient_brings_the_image_closer(self) -> None:
        network, below, outputs, image = self.known_below()
        waves, apart = Waves((16, 16), torch.zeros(())), []
        for gradient in (None, below):
            search = PoolHomotopy(network, DOMAIN.from_unit, outputs, gradient)
            found = search.run(torch.arange(1), waves, torch.zeros(1, 3, 16, 16), steps=8)
            apart.append(float((waves.image(found.inputs) - image).square().mean()))
        assert apart[1] < 0.7 * apart[0]
