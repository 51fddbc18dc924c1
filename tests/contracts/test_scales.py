"""Attacks on a loss of 1e-30 times the usual size succeed like those on the usual loss."""

from __future__ import annotations

import pytest
import torch
from conftest import images, mlp, psnr, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.inversion.objectives.distances import relative_residual

A = lg.attacks
ATTACKS: list[tuple[lg.Attack, nn.Module, int]] = [
    (A.LinearLayer(), mlp(), 2),
    (A.CocktailParty(), mlp(), 2),
    (A.Spear(), mlp(), 2),
    (A.SecondOrder(iterations=60), sigmoid_cnn(), 1),
    (A.SoftmaxUnmixing(iterations=60), sigmoid_cnn(), 2),
    (A.IDLG(steps=20), sigmoid_cnn(), 1),
    (A.InvertingGradients(steps=40), sigmoid_cnn(), 1),
]


def attacked(attack: lg.Attack, model: nn.Module, count: int, scale: float) -> tuple[float, str]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * functional.cross_entropy(outputs, targets)

    batch, domain = images(count), lg.ImageDomain(1, 8, 8)
    client = lg.Client(model=model, loss=loss, domain=domain, classes=4)
    observation = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
    found = attack(observation, seeds=lg.Seeds(0))
    assert found.residual is not None
    return float(psnr(batch.inputs, found.inputs).min()), found.status


@pytest.mark.parametrize(
    ("attack", "model", "count"), ATTACKS, ids=[type(attack).__name__ for attack, *_ in ATTACKS]
)
def test_as_well_as_the_twin(attack: lg.Attack, model: nn.Module, count: int) -> None:
    usual, expected = attacked(attack, model, count, 1.0)
    faint, status = attacked(attack, model, count, 1e-30)
    assert status == expected
    assert faint > min(usual - 3, 55)


def test_residuals_of_any_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {"w": torch.rand(4, 3, generator=generator)}
    off = {"w": 1.01 * seen["w"]}
    for scale in (1e-38, 1e-30, 1.0, 1e30):
        one, other = ({"w": scale * t["w"]} for t in (off, seen))
        assert float(relative_residual(one, other)) == pytest.approx(0.01, rel=1e-2)
