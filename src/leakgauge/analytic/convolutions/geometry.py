"""The places that a convolution reads: unfolding an input into patches, and its adjoint, in any dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True, eq=False)
class Geometry:
    """The places of its input that each output position of a convolution reads.

    Args:
        sees: Indices (P, K) of the place that tap k of position p reads. Places are numbered along
            the flat input of one channel. The value `places` stands for padding with zeros.
        places: Number of places N of one channel of the input.
        size: The input's size along each axis.
        output: The output's size along each axis.
        kernel: The kernel's size along each axis.

    Example:
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> geometry = geometry_of((8, 8), kernel=(3, 3), stride=2, padding=1)
        >>> geometry.sees.shape, geometry.output
        (torch.Size([16, 9]), (4, 4))
    """

    sees: Tensor
    places: int
    size: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Number of output positions P of one example."""
        return len(self.sees)

    @property
    def taps(self) -> int:
        """Number of kernel entries K."""
        return self.sees.shape[1]

    @cached_property
    def reads(self) -> Tensor:
        """Number of taps (N,) that read each place."""
        return torch.bincount(self.sees.flatten(), minlength=self.places + 1)[: self.places]

    def to(self, device: torch.device) -> Geometry:
        """Return the geometry with its indices on a device."""
        return Geometry(self.sees.to(device), self.places, self.size, self.output, self.kernel)

    def unfold(self, u: Tensor) -> Tensor:
        """Return the patches (..., C, P, K) of inputs (..., C, N)."""
        padded = functional.pad(u, (0, 1))
        flat = padded.index_select(-1, self.sees.flatten())
        return flat.reshape(*u.shape[:-1], *self.sees.shape)

    def fold(self, patches: Tensor) -> Tensor:
        """Return inputs (..., C, N), the adjoint of `unfold`: each place gets the sum of the taps that read it."""
        shape = (*patches.shape[:-2], self.places + 1)
        into = patches.new_zeros(shape)
        into.index_add_(-1, self.sees.flatten(), patches.flatten(-2))
        return into[..., : self.places]


def geometry_of(
    size: Sequence[int],
    *,
    kernel: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mode: PaddingMode = "zeros",
) -> Geometry:
    """Return the geometry of a convolution.

    Args:
        size: The input's size along each of 1 to 3 axes.
        kernel: The kernel's size along each axis.
        stride: Step between positions, one number or one for each axis.
        padding: Places added on both sides of each axis.
        dilation: Distance between taps.
        mode: Source of the values of the padding.
    """
    axes = len(kernel)
    steps, pads, gaps = (_for_axes(v, axes) for v in (stride, padding, dilation))
    places = math.prod(size)
    numbers = torch.arange(places, dtype=torch.float64).reshape(1, 1, *size)
    around = [n for pad in reversed(pads) for n in (pad, pad)]
    if mode == "zeros":
        numbers = functional.pad(numbers, around, value=float(places))
    else:
        numbers = functional.pad(numbers, around, mode=mode)
    view = numbers[0, 0].long()
    for axis in range(axes):
        reach = gaps[axis] * (kernel[axis] - 1) + 1
        view = view.unfold(axis, reach, steps[axis])[..., :: gaps[axis]]
    output = tuple(view.shape[:axes])
    sees = view.reshape(math.prod(output), math.prod(kernel))
    return Geometry(sees, places, tuple(size), output, tuple(kernel))


def _for_axes(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return one number for each axis."""
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * (axes if len(value) == 1 else 1)
