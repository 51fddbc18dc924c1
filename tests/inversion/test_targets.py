"""Targets that are numbers: they are solved for when the inputs are known."""

from __future__ import annotations

import pytest
import torch
from conftest import psnr
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.inversion.variables.targets import solved_targets

DOMAIN = lg.ImageDomain(1, 6, 6)


def observed(
    outputs: int, loss: lg.core.Loss, targets: Tensor, classes: int | None = None
) -> tuple[lg.Observation, lg.Batch]:
    """Return one update of a ReLU network, and its batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, outputs))
        batch = lg.Batch(torch.rand(len(targets), 1, 6, 6), targets)
    client = lg.Client(model=model, loss=loss, domain=DOMAIN, classes=classes)
    return lg.Server().observe(client, batch, seeds=lg.Seeds(0)), batch


REAL = torch.tensor([[0.3], [-1.2], [2.0]])
BITS = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]])
BINARY = functional.binary_cross_entropy_with_logits


@pytest.mark.parametrize(
    ("outputs", "loss", "targets"),
    [
        (1, functional.mse_loss, REAL),
        (1, lambda z, y: functional.mse_loss(z.squeeze(1), y, reduction="sum"), REAL[:, 0]),
        (1, BINARY, (REAL > 0).float()),
        (4, BINARY, BITS),
    ],
)
def test_they_are_the_client_s(outputs: int, loss: lg.core.Loss, targets: Tensor) -> None:
    seen, batch = observed(outputs, loss, targets)
    found = solved_targets(seen, DOMAIN.to_unit(batch.inputs))
    assert found is not None
    assert found.shape == targets.shape
    assert torch.allclose(found, targets, atol=1e-4)


@pytest.mark.parametrize("attack", [lg.attacks.LinearLayer(), lg.attacks.Auto()])
@pytest.mark.parametrize(
    ("outputs", "loss", "targets"), [(1, functional.mse_loss, REAL[:1]), (4, BINARY, BITS[:1])]
)
def test_one_example_is_read_with_them(
    attack: lg.Attack, outputs: int, loss: lg.core.Loss, targets: Tensor
) -> None:
    seen, batch = observed(outputs, loss, targets)
    found = attack(seen, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert found.targets is not None
    assert torch.allclose(found.targets, targets, atol=1e-4)
    assert psnr(batch.inputs, found.inputs).min() > 80


@pytest.mark.parametrize(
    ("outputs", "loss", "targets"), [(1, functional.mse_loss, REAL), (4, BINARY, BITS)]
)
def test_auto_prefers_what_explains_the_update(
    outputs: int, loss: lg.core.Loss, targets: Tensor
) -> None:
    seen, batch = observed(outputs, loss, targets)
    found = lg.attacks.Auto()(seen, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CONVERGED
    order = lg.metrics.assign(batch.inputs, found.inputs)
    assert psnr(batch.inputs, found.inputs[order]).min() > 60


def test_rows_of_one_class_each_are_labels() -> None:
    """Cross-entropy takes rows of probabilities as well as labels."""
    labels = torch.tensor([2, 0, 2])
    seen, batch = observed(4, functional.cross_entropy, labels, classes=4)
    found = solved_targets(seen, DOMAIN.to_unit(batch.inputs))
    assert found is not None
    assert torch.equal(found, labels)


def test_wrong_inputs_have_none() -> None:
    seen, batch = observed(1, functional.mse_loss, REAL)
    assert solved_targets(seen, DOMAIN.to_unit(batch.inputs).flip(-1)) is None


def test_a_loss_that_is_not_affine_in_them_has_none() -> None:
    seen, batch = observed(1, functional.l1_loss, REAL)
    assert solved_targets(seen, DOMAIN.to_unit(batch.inputs)) is None


def test_a_loss_over_classes_has_none() -> None:
    seen, batch = observed(
        4, lambda z, y: functional.nll_loss(z.log_softmax(1), y), torch.arange(3)
    )
    assert solved_targets(seen, DOMAIN.to_unit(batch.inputs)) is None
