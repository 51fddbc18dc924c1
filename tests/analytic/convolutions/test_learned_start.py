"""Tests of starts that a small network learns, and of what it learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pixel_shuffle

import leakgauge as lg
from leakgauge.analytic.convolutions import learned_start
from leakgauge.analytic.convolutions.first_color import first_color
from leakgauge.analytic.convolutions.learned_start import Decoder, LearnedStart
from leakgauge.analytic.convolutions.made_images import made_images
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.observed import read_problem
from leakgauge.analytic.convolutions.problem import Problem
from leakgauge.analytic.convolutions.terms import Term, Terms
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.core import ImageDomain

DOMAIN = ImageDomain(3, 16, 16)


def small_network() -> tuple[nn.Module, Network]:
    """Return a network with a stride of 2, and its graph."""
    with lg.Seeds(0).isolated("weights"):
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        ).eval()
    network = trace(model, DOMAIN)
    assert isinstance(network, Network)
    return model, network


def terms_of(network: Network, images: torch.Tensor) -> Terms:
    """Return the terms of the last ReLU."""
    node = [n for n in network.graph.nodes if n.name.startswith("relu")][-1]
    value = network.evaluate([node], {network.entry: DOMAIN.from_unit(images)})[node]
    return Terms(network, DOMAIN.from_unit, [Term(node, value, torch.ones(len(images)).double())])


@pytest.mark.parametrize("shape", [(1, 12), (3, 8, 10), (2, 4, 6, 4)])
def test_made_images_fit_any_number_of_axes(shape: tuple[int, ...]) -> None:
    images = made_images(5, shape, generator=lg.Seeds(0).generator("images"))
    assert images.shape == (5, *shape)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert float(images.flatten(1).std(1).min()) > 0.01
    again = made_images(5, shape, generator=lg.Seeds(0).generator("images"))
    assert torch.equal(images, again)


def test_channels_spread_over_pixels_as_in_a_pixel_shuffle() -> None:
    decoder = Decoder((4, 3), (2, 2), lg.Seeds(0).generator("weights"))
    value = torch.randn(2, 12, 5, 6, generator=lg.Seeds(1).generator("value"))
    assert torch.equal(decoder._spread(value), pixel_shuffle(value, 2))


def test_the_first_gradient_tells_the_color_of_a_plain_image() -> None:
    model, _ = small_network()
    color = torch.tensor([0.2, 0.6, 0.9])
    image = DOMAIN.from_unit(color.reshape(1, 3, 1, 1).expand(1, 3, 16, 16))
    client = lg.Client(model=model, loss=cross_entropy, domain=DOMAIN, classes=10)
    seen = lg.Server().observe(client, lg.Batch(image, torch.tensor([3])), seeds=lg.Seeds(0))
    problem = read_problem(seen)
    assert isinstance(problem, Problem)
    found = first_color(problem, DOMAIN.from_unit, (3, 16, 16))
    assert found is not None
    # The padding at the edge has another color.
    assert float((found - color).abs().max()) < 0.1
    assert first_color(replace(problem, count=2), DOMAIN.from_unit, (3, 16, 16)) is None
    del problem.gradients["1.bias"]
    assert first_color(problem, DOMAIN.from_unit, (3, 16, 16)) is None


def test_a_learned_start_resembles_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_start, "TRAINING", 120)
    monkeypatch.setattr(learned_start, "MORE", 20)
    _, network = small_network()
    images = made_images(2, (3, 16, 16), generator=lg.Seeds(5).generator("images")).double()
    terms = terms_of(network, images)
    which = torch.arange(2)
    training = LearnedStart(terms, (3, 16, 16), which, lg.Seeds(0).generator("image"))
    start = training.first()
    assert start is not None
    errors = (start - images).square().flatten(1).mean(1)
    plain = (images.flatten(2).mean(2)[..., None, None] - images).square().flatten(1).mean(1)
    assert bool((errors < plain / 2).all())
    again = training.again(start[1:], torch.tensor([1]))
    assert float((again - images[1:]).square().mean()) < float(plain[1]) / 2


def test_no_start_is_learned_without_whole_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = small_network()
    images = made_images(1, (3, 16, 16), generator=lg.Seeds(5).generator("images")).double()
    terms = terms_of(network, images)
    generator = lg.Seeds(0).generator("image")
    nothing = Terms(network, DOMAIN.from_unit, [])
    assert LearnedStart(nothing, (3, 16, 16), torch.arange(1), generator).first() is None
    monkeypatch.setattr(learned_start, "WORK", 1.0)
    assert LearnedStart(terms, (3, 16, 16), torch.arange(1), generator).first() is None
