"""Tests of masks and inputs of several examples, with fewer channels than positions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from leakgauge.analytic.convolutions.batch_masks import separate_masks
from leakgauge.analytic.convolutions.binary_masks import MaskedInputs
from leakgauge.analytic.convolutions.bounded_factors import patches_of
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.mask_homotopy import Homotopy
from leakgauge.core import Inapplicable

SIDE, CHANNELS, OUTPUTS = 5, 24, 40
GEOMETRY = geometry_of((SIDE, SIDE), kernel=(3, 3), padding=1)


@dataclass(frozen=True)
class Case:
    """A gradient in float32, its span, and the truth."""

    rows: Tensor
    sums: Tensor
    levels: Tensor
    span: Tensor
    inputs: Tensor
    masks: Tensor


def case(seed: int, batch: int, distance: float = 0.3) -> Case:
    """Build a gradient of rank 40 for 25 positions of each example."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = draw(batch, CHANNELS, SIDE**2).relu()
    levels, masks = draw(OUTPUTS, batch), draw(batch, OUTPUTS, SIDE**2) < 0.2
    signals = levels[:, :, None] * masks.movedim(0, 1)
    rows = (signals.flatten(1) @ patches_of(inputs, GEOMETRY)).float().double()
    turn = torch.eye(batch, dtype=torch.float64) + 0.3 * draw(batch, batch)
    noise = draw(*inputs.shape)
    span = torch.einsum("ab,bcn->acn", turn, inputs)
    span = span + distance * noise * span.norm() / noise.norm()
    shaped = rows.reshape(OUTPUTS, CHANNELS, -1)
    return Case(shaped, signals.sum((1, 2)), levels, span, inputs, masks)


def error(found: MaskedInputs, made: Case) -> float:
    return float((found.inputs - made.inputs).norm() / made.inputs.norm())


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_example_is_exact_though_the_rank_is_short(batch: int) -> None:
    made = case(batch, batch)
    found = separate_masks(made.rows, made.sums, made.levels, made.span, GEOMETRY)
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert torch.equal(found.masks, made.masks)
    assert error(found, made) < 1e-5


def test_errors_of_the_levels_are_fitted() -> None:
    made = case(4, 2, distance=0.1)
    noise = torch.randn(made.levels.shape, generator=torch.Generator().manual_seed(0))
    levels = made.levels * (1 + 1e-4 * noise)
    found = separate_masks(made.rows, made.sums, levels, made.span, GEOMETRY)
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert torch.equal(found.masks, made.masks)
    assert error(found, made) < 1e-3, "the scale of each example is that of its levels"


def test_a_channel_without_gradient_is_not_told() -> None:
    made = case(5, 2, distance=0.1)
    made.rows[7], made.sums[7] = 0, 0
    found = separate_masks(made.rows, made.sums, made.levels, made.span, GEOMETRY)
    assert isinstance(found, MaskedInputs)
    assert found.certified
    assert found.told.tolist() == [o != 7 for o in range(OUTPUTS)]


def test_a_gradient_of_no_binary_masks_is_not_certified() -> None:
    made = case(6, 2)
    noise = torch.randn(made.rows.shape, generator=torch.Generator().manual_seed(1))
    rows = made.rows + 0.1 * noise
    found = separate_masks(
        rows, made.sums, made.levels, made.span, GEOMETRY, schedules=(Homotopy(1.0, 0.8, 20),)
    )
    assert isinstance(found, MaskedInputs)
    assert not found.certified
    assert found.residual > 1e-3
    assert found.sweeps == 20


def test_too_many_examples_are_inapplicable_with_numbers() -> None:
    found = separate_masks(
        torch.ones(8, 3, 9), torch.ones(8), torch.ones(8, 3), torch.ones(3, 3, 25), GEOMETRY
    )
    assert isinstance(found, Inapplicable)
    assert found.reason.startswith("72 equations (8 channels with a signal, 9 taps) for 75")
