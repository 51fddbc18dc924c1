"""`leakgauge.examples` refuses every odd argument with a UserError of one line that names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import leakgauge as lg
from leakgauge import examples

SIZES = (0, -1, 1798, 10**30, 1.5, "2", True, None)


def logits(count: int = 10, inputs: int = 64) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, count))


class Broken(nn.Module):
    """A network whose forward returns no tensor."""

    def forward(self, inputs: torch.Tensor) -> str:
        return "no tensor"


@pytest.mark.parametrize("size", SIZES)
def test_sizes_out_of_range(size: Any) -> None:
    words = "expected a whole number of at least 1 and of at most 1797"
    with pytest.raises(lg.UserError, match=f"^size: {words}"):
        examples.batch(size)
    with pytest.raises(lg.UserError, match=f"^batch_size: {words}"):
        examples.observation(size)


def test_sizes_within_range() -> None:
    assert [len(examples.batch(size)) for size in (1, 1797)] == [1, 1797]
    assert len(examples.batch(np.int64(2))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (logits(3), r"shape \(2, 3\)"),
        (logits(12), r"shape \(2, 12\)"),
        (logits(inputs=3072), "RuntimeError: mat1 and mat2"),
        (nn.Conv2d(1, 10, 3), r"shape \(2, 10, 6, 6\)"),
        (Broken(), "an output of type str"),
        (3, "found 3"),
        (nn.Linear, "the class Linear"),
    ],
)
def test_models_that_do_not_fit(model: Any, found: str) -> None:
    for make in (examples.client, lambda model: examples.observation(model=model)):
        with pytest.raises(lg.UserError, match=f"^model: expected .*{found}") as caught:
            make(model)
        assert str(caught.value).isprintable()


def test_the_check_of_a_model_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    before, drawn = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    examples.client(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", ["training", "defense", "threat"])
@pytest.mark.parametrize("value", [3, "x", lg.Server, lg.FedSGD, lg.defenses.GaussianNoise])
def test_other_arguments_of_a_wrong_kind(name: str, value: Any) -> None:
    """A class in place of an object is refused, too, even if it has all the methods."""
    with pytest.raises(lg.UserError, match=f"^{name}: expected an object with the methods of"):
        examples.observation(**{name: value})
