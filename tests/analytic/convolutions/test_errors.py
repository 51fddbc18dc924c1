"""Spans and masks from gradients with errors: noise, rounding, and entries that were not sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.analytic.convolutions.geometry import Geometry, geometry_of
from leakgauge.analytic.convolutions.noisy_span import Bilinear, refine
from leakgauge.analytic.convolutions.noisy_terms import second_differences
from leakgauge.analytic.convolutions.span import Consistency, RowSpace, row_space, span_of
from leakgauge.analytic.convolutions.update_error import error_of, tail_error, update_error

GEOMETRY = geometry_of((5, 5), kernel=(3, 3), padding=1)
POSITIONS = 50
"""Positions of two examples."""


def gradient() -> tuple[Tensor, Tensor]:
    """Return the inputs (2, 16, 25) of two examples, and the gradient (96, 16, 3, 3) of the weight."""
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 16, 5, 5, generator=draws, dtype=torch.float64).relu()
    weight = torch.randn(96, 16, 3, 3, generator=draws, dtype=torch.float64).requires_grad_()
    outputs = functional.conv2d(inputs, weight, padding=1)
    signal = torch.randn(outputs.shape, generator=draws, dtype=torch.float64)
    (found,) = torch.autograd.grad((outputs * signal).sum(), weight)
    return inputs.flatten(2), found


def noisy(tensor: Tensor, level: float) -> Tensor:
    """Return a tensor with Gaussian noise of this size, relative to its root mean square."""
    draws = torch.Generator().manual_seed(2)
    noise = torch.randn(tensor.shape, generator=draws, dtype=torch.float64)
    return tensor + level * tensor.square().mean().sqrt() * noise


def start_of(dweight: Tensor, geometry: Geometry) -> Tensor:
    """Return the span from the strongest singular values alone."""
    space = row_space(dweight, error=1e-7)
    rank = min(space.rank, POSITIONS)
    kept = RowSpace(space.basis[:rank], rank, space.floor)
    draws = torch.Generator().manual_seed(0)
    return span_of(Consistency(kept, geometry, 16), 2, generator=draws).basis


def apart(basis: Tensor, inputs: Tensor) -> float:
    """Return the largest relative distance of true inputs from a span."""
    rows, flat = basis.flatten(1), inputs.flatten(1)
    return float(((flat - flat @ rows.T @ rows).norm(dim=1) / flat.norm(dim=1)).max())


@pytest.mark.parametrize("level", [1e-3, 1e-2, 1e-1])
def test_singular_values_beyond_the_positions_tell_the_noise(level: float) -> None:
    _, dweight = gradient()
    found = tail_error(noisy(dweight, level), POSITIONS)
    assert found == pytest.approx(level * float(dweight.square().mean().sqrt()), rel=0.1)


@pytest.mark.parametrize("level", [1e-3, 1e-1])
def test_the_refined_span_is_as_wrong_as_it_expects(level: float) -> None:
    inputs, dweight = gradient()
    shared = noisy(dweight, level)
    start = start_of(shared, GEOMETRY)
    sigma = level * float(dweight.square().mean().sqrt())
    found = refine(
        Bilinear(shared.flatten(2), GEOMETRY),
        start,
        sigma=sigma,
        generator=torch.Generator().manual_seed(0),
    )
    assert apart(found.basis, inputs) < apart(start, inputs)
    assert 0.3 < apart(found.basis, inputs) / found.error < 3


def test_entries_that_were_not_sent_follow_from_the_others() -> None:
    inputs, dweight = gradient()
    sizes = dweight.abs()
    shared = torch.where(sizes > sizes.quantile(0.5), dweight, 0)
    error = error_of(shared, noise=None, rounding=6e-8)
    assert error.dropped == pytest.approx(0.5, abs=0.01)
    flat, start = shared.flatten(2), start_of(shared, GEOMETRY)
    found = refine(
        Bilinear(flat, GEOMETRY, error.weights(flat)),
        start,
        sigma=error.sure,
        generator=torch.Generator().manual_seed(0),
    )
    assert apart(start, inputs) > 0.05
    assert apart(found.basis, inputs) < 3e-3


def test_silent_channels_are_no_entries_that_were_not_sent() -> None:
    _, dweight = gradient()
    dweight[::2] = 0
    dweight[:, ::4] = 0
    assert error_of(dweight, noise=None, rounding=6e-8).dropped == 0


def test_levels_of_a_shorter_format_are_seen() -> None:
    _, dweight = gradient()
    step = float(dweight.abs().max()) / 127
    error = error_of((dweight / step).round() * step, noise=None, rounding=6e-8)
    assert error.sigma == pytest.approx(step / 12**0.5, rel=0.01)


def test_white_noise_has_one_size_in_tensors_without_a_tail() -> None:
    _, dweight = gradient()
    shared = {"a": noisy(dweight, 1e-2), "b": torch.ones(3, dtype=torch.float64)}
    found = update_error(shared, {"a": POSITIONS}, noise=None, rounding=6e-8)
    assert found.entries["b"].sigma == found.entries["a"].sigma > 0


def test_second_differences_vanish_on_planes() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    plane = (2 * rows - columns).double().flatten()
    matrix = second_differences((4, 5))
    assert matrix.shape == (2 * 5 + 3 * 4, 20)
    assert float((matrix @ plane).abs().max()) < 1e-12


def test_rows_of_noise_alone_do_not_spoil_the_row_space() -> None:
    """A silent channel has a row of noise. Its norm is small, and so must its weight be."""
    inputs, dweight = gradient()
    dweight = dweight.clone()
    dweight[:40] = 0
    level = 1e-4
    seen = noisy(dweight, level)
    sigma = level * float(dweight.square().mean().sqrt())

    def error_with(sigma: float) -> float:
        space = row_space(seen, error=1e-7, sigma=sigma)
        rank = min(space.rank, POSITIONS)
        kept = RowSpace(space.basis[:rank], rank, space.floor)
        draws = torch.Generator().manual_seed(0)
        return apart(span_of(Consistency(kept, GEOMETRY, 16), 2, generator=draws).basis, inputs)

    assert error_with(sigma) < 0.05 * error_with(0.0)
