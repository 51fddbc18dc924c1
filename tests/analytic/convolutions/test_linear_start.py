"""Rough values of a node, told from later ones by a linear map that is learned from made images."""

from __future__ import annotations

import torch
from torch import nn

from leakgauge.analytic.convolutions.linear_start import FEWEST, LinearStart, images_for, predict
from leakgauge.analytic.convolutions.made_images import made_images
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.pool_homotopy import max_pool_at
from leakgauge.analytic.convolutions.pools import read_below
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.core import ImageDomain, Inapplicable

DOMAIN = ImageDomain(3, 16, 16)


def model() -> nn.Module:
    """Return two convolutions and a max pool behind them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 8, 3, padding=1),
        ).double()


def test_a_linear_map_is_learned_with_few_errors() -> None:
    draws = torch.randn(400, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = draws[:, :20] @ draws[20:40, :20].T
    found = predict(draws[:3], [(draws[3:200], mixed[3:200]), (draws[200:], mixed[200:])])
    assert float((found - mixed[:3]).norm() / mixed[:3].norm()) < 1e-2


def test_too_many_values_are_not_told() -> None:
    assert images_for(2**30) == 0
    assert images_for(2**17) >= FEWEST
    assert images_for(8) == images_for(16)


def test_outputs_of_a_max_pool_tell_the_input_below_it_for_a_batch() -> None:
    layers = model()
    network = trace(layers, DOMAIN)
    assert not isinstance(network, Inapplicable)
    layer = network.convolutions[1]
    images = made_images(4, (3, 16, 16), generator=torch.Generator().manual_seed(1)).double()
    inputs = layers[:2](DOMAIN.from_unit(images)).detach()  # type: ignore[index]
    value = layers[2:5](inputs)  # type: ignore[index]
    draws = torch.Generator().manual_seed(2)
    # Signals of equal labels differ little.
    signal = torch.randn(value.shape[1:], generator=draws, dtype=torch.float64)
    apart = torch.randn(value.shape, generator=draws, dtype=torch.float64)
    signal = signal + 0.1 * apart
    weight = layers[2].weight  # type: ignore[index]
    (dweight,) = torch.autograd.grad((value * signal).sum(), [weight])
    (output,) = (n for n in network.graph.nodes if max_pool_at(n) and "getitem" in str(n.target))
    pool = max_pool_at(output)
    assert pool is not None
    assert layer.bias is not None
    generator = torch.Generator().manual_seed(3)
    start = LinearStart(network, DOMAIN.from_unit, (3, 16, 16), generator)
    told = start.value(layer.source, output, value.detach())
    assert told is not None
    spread = (inputs - inputs.mean(0)).norm()
    assert float((told - inputs).norm() / spread) < 0.6
    given = Pooled(
        geometry=layer.geometry,
        weight=layer.weight.flatten(2),
        dweight=dweight.flatten(2),
        factor=torch.ones(48, dtype=torch.float64),
        shift=layer.bias.flatten(),
        windows=pool.windows,
        value=value.detach().flatten(2),
        signal=signal.flatten(2),
        rectified=True,
        positive=True,
    )
    found = read_below(given, told.flatten(2))
    assert not isinstance(found, Inapplicable), found.reason
    assert float((found.inputs - inputs.flatten(2)).norm() / inputs.norm()) < 1e-5
