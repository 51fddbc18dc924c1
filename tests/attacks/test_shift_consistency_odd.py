"""ShiftConsistency on unusual networks and updates: a clear result or a clear reason, never a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import leakgauge as lg

ATTACK = lg.attacks.ShiftConsistency(steps=5, rounds=1)


class Gated(nn.Module):
    """Two convolutions, an operation, and a pooled head, from a fixed seed."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(1, 16, 3, 2, 1)
            self.second = nn.Conv2d(16, 80, 3, padding=1)
            self.head = nn.Linear(80, 10)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        features = self.gate(self.second(self.first(x).relu()))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "times a comparison": lambda t: t * (t > 0),
    "where": lambda t: torch.where(t > 0, t, 0.0),
    "masked": lambda t: t.masked_fill(t < 0, 0.0),
    "maximum with zeros": lambda t: torch.maximum(t, torch.zeros_like(t)),
    "detached": lambda t: t * torch.sigmoid(t.detach()),
}


@pytest.mark.parametrize("name", GATES)
def test_operations_through_which_no_derivative_passes(name: str) -> None:
    observation = lg.examples.observation(batch_size=1, model=Gated(GATES[name]))
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert float(lg.metrics.psnr(lg.examples.batch(1).inputs, found.inputs)) > 80


def test_circular_padding_below_the_beginning() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(16, 80, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(80, 10),
        )
    found = ATTACK(lg.examples.observation(batch_size=1, model=model), seeds=lg.Seeds(0))
    assert found.message.startswith("recovered the features")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_updates_in_another_number_format(dtype: torch.dtype) -> None:
    seen = lg.examples.observation(batch_size=1, model=Gated(torch.relu))
    update = lg.Update({name: t.to(dtype) for name, t in seen.update.tensors.items()})
    found = ATTACK(replace(seen, update=update), seeds=lg.Seeds(0))
    assert found.inputs.dtype == torch.float32
    assert float(lg.metrics.psnr(lg.examples.batch(1).inputs, found.inputs)) > 25


@pytest.mark.parametrize("how", ["unknown", "short", "complex", "empty"])
def test_updates_of_another_model_are_one_clear_error(how: str) -> None:
    seen = lg.examples.observation(batch_size=1, model=Gated(torch.relu))
    tensors = dict(seen.update.tensors)
    if how == "unknown":
        tensors["other"] = torch.ones(3)
    elif how == "short":
        tensors["second.bias"] = tensors["second.bias"][:-1]
    elif how == "complex":
        tensors["second.bias"] = tensors["second.bias"].to(torch.complex64)
    else:
        tensors = {}
    with pytest.raises(lg.UpdateError, match=r"expected .*; found"):
        ATTACK(replace(seen, update=lg.Update(tensors)), seeds=lg.Seeds(0))


def test_layers_that_draw_at_random_are_refused_by_name() -> None:
    model = Gated(nn.FractionalMaxPool2d(2, output_size=2))
    found = ATTACK(lg.examples.observation(batch_size=1, model=model), seeds=lg.Seeds(0))
    assert found.status is lg.Status.INAPPLICABLE
    assert "'gate'" in found.message


def test_a_gray_image_counts_as_one_that_has_its_activations() -> None:
    """Its activations are those of the plain image that terms are measured from."""
    batch = lg.Batch(torch.full((1, 1, 8, 8), 0.5), torch.tensor([2]))
    client = lg.Client(
        model=Gated(torch.relu),
        loss=nn.functional.cross_entropy,
        domain=lg.ImageDomain(1, 8, 8),
        classes=10,
    )
    seen = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
    found = ATTACK(seen, seeds=lg.Seeds(0))
    assert "images that have them: 1 of 1" in found.message
