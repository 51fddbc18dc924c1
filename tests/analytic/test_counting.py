"""Counted batch sizes beside numerical ranks: the span of a convolution, and inputs from known signals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leakgauge.analytic.convolutions.counting import MANY, Reader, largest, solved
from leakgauge.analytic.convolutions.geometry import Geometry, geometry_of
from leakgauge.analytic.convolutions.overlap import joined, shifts

TINY = 1e-9
"""Relative size of a singular value that counts as zero."""


def drawn(geometry: Geometry, channels: int, outputs: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return random patches (B P, C K) and signals (O, B P)."""
    draw = torch.Generator().manual_seed(3)
    u = torch.rand(batch, channels, geometry.places, generator=draw, dtype=torch.float64)
    patches = geometry.unfold(u).permute(0, 2, 1, 3).reshape(batch * geometry.positions, -1)
    rows = (outputs, batch * geometry.positions)
    return patches, torch.randn(rows, generator=draw, dtype=torch.float64)


def nullity(geometry: Geometry, channels: int, outputs: int, batch: int) -> int:
    """Return the dimension of the inputs whose patches all lie in the row space of the gradient."""
    patches, signal = drawn(geometry, channels, outputs, batch)
    _, sizes, basis = torch.linalg.svd(signal @ patches, full_matrices=False)
    basis = basis[sizes > TINY * sizes[0]]
    count = channels * geometry.places
    units = torch.eye(count, dtype=torch.float64).reshape(count, channels, -1)
    each = geometry.unfold(units).permute(0, 2, 1, 3).reshape(count, geometry.positions, -1)
    left = torch.linalg.svdvals((each - each @ basis.T @ basis).reshape(count, -1))
    return int((left <= TINY).sum()) + count - len(left)


CASES = {
    "3x3": ((6, 6), 3, 1, 1, 8, 80),
    "3x3, no padding": ((6, 6), 3, 1, 0, 8, 40),
    "3x3 with full padding": ((6, 6), 3, 1, 2, 8, 80),
    "3x3, stride 2, odd size": ((7, 7), 3, 2, 1, 12, 40),
    "5x5, stride 2": ((8, 8), 5, 2, 2, 6, 40),
    "4x4, stride 2": ((6, 6), 4, 2, 1, 6, 40),
    "last block": ((2, 2), 3, 1, 1, 8, 12),
    "signals": ((9,), 5, 2, 2, 6, 30),
    "volumes": ((3, 3, 3), 3, 1, 1, 4, 40),
}


class TestSpan:
    @pytest.mark.parametrize("name", CASES)
    def test_the_null_vectors_count_the_batch(self, name: str) -> None:
        size, kernel, stride, padding, channels, outputs = CASES[name]
        taps = (kernel,) * len(size)
        geometry = geometry_of(size, kernel=taps, stride=stride, padding=padding)
        counted = Reader(geometry, channels, outputs).span()
        assert counted >= 1
        for batch in range(1, counted + 1):
            assert nullity(geometry, channels, outputs, batch) == batch

    @pytest.mark.parametrize("name", ["3x3", "3x3, no padding", "4x4, stride 2", "last block"])
    def test_one_more_example_ends_it(self, name: str) -> None:
        size, kernel, stride, padding, channels, outputs = CASES[name]
        geometry = geometry_of(size, kernel=(kernel,) * 2, stride=stride, padding=padding)
        batch = Reader(geometry, channels, outputs).span() + 1
        assert nullity(geometry, channels, outputs, batch) != batch

    def test_with_an_even_size_and_stride_2_moved_copies_fit(self) -> None:
        geometry = geometry_of((6, 6), kernel=(3, 3), stride=2, padding=1)
        assert nullity(geometry, 12, 40, 1) == geometry.positions
        assert shifts(geometry, 0)
        assert not joined(geometry)
        assert "copies" in Reader(geometry, 12, 40).reason()

    def test_disjoint_patches_and_single_positions(self) -> None:
        assert Reader(geometry_of((6, 6), kernel=(2, 2), stride=2), 8, 40).span() == 0
        assert Reader(geometry_of((1, 1), kernel=(3, 3), padding=1), 6, 4).span() == 4
        assert Reader(geometry_of((1,), kernel=(1,)), 20, 30).span() == 20

    def test_groups_steps_and_batch_norm(self) -> None:
        geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
        assert Reader(geometry, 64, 128).span() == 8
        assert Reader(geometry, 64, 128, groups=4).span() == 2
        assert Reader(geometry, 64, 128, copies=3).span() == 2
        assert Reader(geometry, 64, 127, shared=1).span() == 8
        assert Reader(geometry, 64, 128, rank=3).span() == 0
        narrow = Reader(geometry, 64, 15)
        assert (narrow.span(), narrow.reason()) == (0, "15 channels for 16 positions")


def is_solved(readers: list[Reader], batch: int) -> bool:
    """Return whether random signals determine the places of one channel."""
    blocks = []
    draw = torch.Generator().manual_seed(4)
    for reader in readers:
        geometry = reader.geometry
        rows = (reader.rows, batch, geometry.positions)
        signal = torch.randn(rows, generator=draw, dtype=torch.float64)
        block = signal.new_zeros(reader.rows, geometry.taps, batch, geometry.places + 1)
        for tap in range(geometry.taps):
            block[:, tap].index_add_(2, geometry.sees[:, tap], signal)
        blocks.append(block[..., : geometry.places].reshape(reader.rows * geometry.taps, -1))
    sizes = torch.linalg.svdvals(torch.cat(blocks))
    return len(sizes) == blocks[0].shape[1] and bool(sizes[-1] > TINY * sizes[0])


def stacked_rank(reader: Reader, batch: int, outputs: int) -> int:
    """Return the rank of the equations of signals and of some known outputs, for all channels."""
    geometry, channels = reader.geometry, reader.channels
    draw = torch.Generator().manual_seed(5)
    shape = (reader.outputs, batch, geometry.positions)
    signal = torch.randn(shape, generator=draw, dtype=torch.float64)
    weight = torch.randn(outputs, channels, geometry.taps, generator=draw, dtype=torch.float64)
    count = batch * channels * geometry.places
    units = torch.eye(count, dtype=torch.float64).reshape(count, batch, channels, geometry.places)
    patches = geometry.unfold(units)
    gradient = torch.einsum("obp,nbcpk->nock", signal, patches).flatten(1)
    known = torch.einsum("ock,nbcpk->nobp", weight, patches).flatten(1)
    sizes = torch.linalg.svdvals(torch.cat([gradient, known], dim=1))
    return int((sizes > TINY * sizes[0]).sum())


class TestSolved:
    @pytest.mark.parametrize(
        ("size", "kernel", "stride", "padding", "outputs"),
        [((6, 6), 3, 1, 1, 16), ((6, 6), 5, 2, 2, 12), ((8,), 3, 1, 1, 8), ((6, 6), 4, 2, 1, 8)],
    )
    def test_counts_are_ranks(
        self, size: tuple[int, ...], kernel: int, stride: int, padding: int, outputs: int
    ) -> None:
        taps = (kernel,) * len(size)
        geometry = geometry_of(size, kernel=taps, stride=stride, padding=padding)
        reader = Reader(geometry, 4, outputs)
        counted = solved([reader])
        assert counted >= 1
        assert is_solved([reader], counted)
        assert not is_solved([reader], counted + 1)

    def test_stride_2_is_counted_by_parity_and_a_shortcut_helps(self) -> None:
        main = Reader(geometry_of((8, 8), kernel=(3, 3), stride=2, padding=1), 4, 40)
        short = Reader(geometry_of((8, 8), kernel=(1, 1), stride=2), 4, 40)
        assert solved([main]) == 2  # 40 equations for 16 B places of even row and column.
        assert solved([main, short]) == 5  # 80 equations for 80 places: a square system.
        assert is_solved([main, short], 5)
        assert not is_solved([main], 3)
        assert solved([short]) == 0  # Some places are not read.

    def test_signals_of_batch_norm_sum_to_zero(self) -> None:
        """In train mode, the places that one tap reads at all positions stay open by their sum."""
        geometry = geometry_of((8, 8), kernel=(3, 3), stride=2, padding=1)
        assert solved([Reader(geometry, 4, 40, shared=1)]) == 0
        assert solved([Reader(geometry_of((6, 6), kernel=(3, 3), padding=1), 4, 16, shared=1)]) == 3
        assert (
            Reader(geometry_of((4, 4), kernel=(3, 3), padding=1), 64, 128, varying=45).span() == 3
        )

    def test_known_outputs_are_equations_too(self) -> None:
        reader = Reader(geometry_of((6, 6), kernel=(3, 3), padding=1), 8, 8)
        assert solved([reader]) == 2  # 72 equations for 72 places.
        assert is_solved([reader], 2)
        assert solved([reader], known=8 * 36.0) >= MANY
        assert solved([reader], known=4 * 36.0) == 3
        assert stacked_rank(reader, 3, outputs=4) == 3 * 8 * 36
        assert stacked_rank(reader, 5, outputs=4) < 5 * 8 * 36


def test_largest_is_the_end_of_a_range() -> None:
    assert [largest(lambda b, n=n: b <= n) for n in (0, 1, 2, 5, 8)] == [0, 1, 2, 5, 8]
    assert largest(lambda b: True) == MANY
