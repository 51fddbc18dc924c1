"""ShiftConsistency on small networks: what it certifies, and why it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leakgauge as lg
from leakgauge.analytic.convolutions.network import trace
from leakgauge.analytic.convolutions.span import Consistency, row_space, span_of

ATTACK = lg.attacks.ShiftConsistency(steps=15, rounds=1)


def network(between: nn.Module | None = None, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Return two convolutions and a pooled head for 8x8 digits, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            between or nn.Identity(),
            activation(),
            nn.Conv2d(16, 64, 3, padding=1),
            activation(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        return model.eval()


@pytest.mark.parametrize("between", [None, nn.GroupNorm(4, 16)])
@pytest.mark.parametrize("batch", [1, 2])
def test_batches_are_certified(between: nn.Module | None, batch: int) -> None:
    observation = lg.examples.observation(batch_size=batch, model=network(between))
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    truth = lg.examples.batch(batch).inputs
    apart = (found.inputs[:, None] - truth[None]).square().flatten(2).mean(2)
    assert float(apart.amin(1).max()) < 1e-6


def test_one_example_behind_gelu_is_certified() -> None:
    observation = lg.examples.observation(batch_size=1, model=network(activation=nn.GELU))
    assert ATTACK(observation, seeds=lg.Seeds(0)).status is lg.Status.CERTIFIED


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no convolution"),
        (network(activation=nn.GELU), "no ReLU makes its input sparse"),
        (network(nn.InstanceNorm2d(16)), "merges the examples"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
            "4 channels for 36 positions",
        ),
    ],
)
def test_refusals_say_why(model: nn.Module, reason: str) -> None:
    plan = ATTACK.plan(lg.examples.observation(batch_size=2, model=model.eval()))
    assert isinstance(plan, lg.Inapplicable)
    assert reason in plan.reason


def test_nothing_above_the_layer_enters() -> None:
    """The span of the inputs is the same below another convolution and another head, which change every signal."""
    model, other = network(), network()
    with torch.no_grad():
        for layer in (other[3], other[7]):
            layer.weight.copy_(
                torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
            )
    bases = []
    for each in (model, other):
        observation = lg.examples.observation(batch_size=2, model=each)
        graph = trace(each, observation.domain)
        assert not isinstance(graph, lg.Inapplicable)
        layer = graph.convolutions[1]
        space = row_space(observation.update.tensors[layer.name].double(), error=1e-7)
        generator = torch.Generator().manual_seed(0)
        found = span_of(Consistency(space, layer.geometry, layer.channels), 2, generator=generator)
        bases.append(found.basis.flatten(1))
    cosines = torch.linalg.svdvals(bases[0] @ bases[1].T)
    assert float(cosines.min()) > 1 - 1e-6
