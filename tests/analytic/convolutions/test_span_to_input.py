"""From a convolution's gradient to the inputs of single examples: places, span, examples, bits, inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.analytic.convolutions.bits import Gap
from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.examples import separate
from leakgauge.analytic.convolutions.geometry import Geometry, geometry_of
from leakgauge.analytic.convolutions.image import minimize_each
from leakgauge.analytic.convolutions.inputs import solve_input
from leakgauge.analytic.convolutions.span import Consistency, row_space, span_of
from leakgauge.core import Inapplicable


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(geometry: Geometry, inputs: Tensor, signal: Tensor) -> Tensor:
    """Return the gradient (O, C, K) of a weight from inputs (B, C, N) and a signal (B, O, P)."""
    return torch.einsum("bop,bcpk->ock", signal, geometry.unfold(inputs))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [((9,), 3, 2, 1, 1), ((6, 7), 3, 1, 1, 1), ((8, 8), 3, 2, 1, 2), ((4, 5, 4), 2, 1, 1, 1)],
)
def test_patches_are_those_of_the_convolution(
    size: tuple[int, ...], kernel: int, stride: int, padding: int, dilation: int
) -> None:
    axes = len(size)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    u, weight = drawn(2, 3, *size), drawn(4, 3, *[kernel] * axes, seed=1)
    geometry = geometry_of(
        size, kernel=[kernel] * axes, stride=stride, padding=padding, dilation=dilation
    )
    expected = convolve(u, weight, stride=stride, padding=padding, dilation=dilation)
    z = torch.einsum("bcpk,ock->bop", geometry.unfold(u.flatten(2)), weight.flatten(2))
    assert geometry.output == tuple(expected.shape[2:])
    torch.testing.assert_close(z, expected.flatten(2))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_repeats_places(mode: str) -> None:
    u, weight = drawn(1, 2, 5, 5), drawn(3, 2, 3, 3, seed=1)
    geometry = geometry_of((5, 5), kernel=(3, 3), padding=1, mode=mode)  # type: ignore[arg-type]
    z = torch.einsum("bcpk,ock->bop", geometry.unfold(u.flatten(2)), weight.flatten(2))
    expected = functional.conv2d(functional.pad(u, (1, 1, 1, 1), mode=mode), weight)
    torch.testing.assert_close(z, expected.flatten(2))


def test_folding_is_the_adjoint_of_unfolding() -> None:
    geometry = geometry_of((6, 6), kernel=(3, 3), stride=2, padding=1)
    u, patches = drawn(2, 3, 36), drawn(2, 3, geometry.positions, 9, seed=1)
    left = (geometry.unfold(u) * patches).sum()
    torch.testing.assert_close(left, (u * geometry.fold(patches)).sum())


@pytest.mark.parametrize("batch", [1, 3])
def test_the_row_space_holds_the_inputs_and_zeros_tell_them_apart(batch: int) -> None:
    geometry = geometry_of((5, 5), kernel=(3, 3), padding=1)
    inputs = drawn(batch, 16, 25).relu()
    dweight = gradient(geometry, inputs, drawn(batch, 96, 25, seed=1)).float().double()
    generator = torch.Generator().manual_seed(0)
    space = row_space(dweight, error=1e-7)
    span = span_of(Consistency(space, geometry, 16), batch, generator=generator)
    assert space.rank == 25 * batch
    assert span.gap > 1e4
    truth = inputs.flatten(1) / inputs.flatten(1).norm(dim=1, keepdim=True)
    basis = span.basis.flatten(1)
    assert float((truth - truth @ basis.T @ basis).norm(dim=1).max()) < 1e-4
    found = separate(span.basis, batch, generator=generator)
    cosines = truth @ found.values.flatten(1).T
    assert cosines.shape == (batch, batch)
    assert float(cosines.amax(1).min()) > 1 - 1e-8


def test_a_gradient_without_overlap_of_patches_has_no_gap() -> None:
    geometry = geometry_of((6, 6), kernel=(2, 2), stride=2)
    inputs = drawn(1, 8, 36).relu()
    dweight = gradient(geometry, inputs, drawn(1, 64, 9, seed=1))
    operator = Consistency(row_space(dweight, error=1e-12), geometry, 8)
    assert span_of(operator, 1, generator=torch.Generator().manual_seed(0)).gap < 1e4


@pytest.mark.parametrize("stride", [1, 2])
def test_known_signals_determine_the_input(stride: int) -> None:
    geometry = geometry_of((6, 6), kernel=(3, 3), stride=stride, padding=1)
    inputs, full = drawn(2, 5, 36), drawn(2, 48, geometry.positions, seed=1)
    everything = torch.ones_like(full, dtype=torch.bool)
    aim = gradient(geometry, inputs, full)
    found = solve_input([GradientOf(geometry, aim, full, everything, ~everything)])
    assert not isinstance(found, Inapplicable)
    torch.testing.assert_close(found.inputs, inputs)
    assert found.misfit < 1e-10


def test_too_few_channels_are_refused_in_numbers() -> None:
    geometry = geometry_of((6, 6), kernel=(3, 3), padding=1)
    full = drawn(2, 4, 36, seed=1)
    everything = torch.ones_like(full, dtype=torch.bool)
    aim = gradient(geometry, drawn(2, 5, 36), full)
    found = solve_input([GradientOf(geometry, aim, full, everything, ~everything)])
    assert isinstance(found, Inapplicable)
    assert "values open" in found.reason


def test_wrong_bits_are_found_also_two_of_one_channel() -> None:
    geometry = geometry_of((6, 6), kernel=(3, 3), padding=1)
    inputs, full = drawn(2, 8, 36).relu(), drawn(2, 32, 36, seed=1)
    truth = drawn(2, 32, 36, seed=2) > 0
    wrong = torch.zeros_like(truth)
    for b, o, p in ((0, 3, 7), (0, 3, 8), (1, 20, 30)):
        wrong[b, o, p] = True
    aim = gradient(geometry, inputs, full * truth)
    given = GradientOf(geometry, aim, full, truth ^ wrong, torch.ones_like(truth))
    assert torch.equal(Gap(given, inputs, given.gap(inputs), None).wrong_bits(1e-12), wrong)


def test_each_example_is_minimized_on_its_own() -> None:
    aim = drawn(3, 4)
    curvature = torch.tensor([[1.0], [10.0], [1000.0]], dtype=torch.float64)
    found = minimize_each(
        lambda x: (curvature * (x - aim).square()).sum(1), torch.zeros_like(aim), steps=30
    )
    torch.testing.assert_close(found.inputs, aim)
