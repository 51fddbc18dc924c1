"""Equations for the input of a convolution: the gradient of its weight, and known entries of its output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry


@dataclass(frozen=True, eq=False)
class GradientOf:
    """The gradient of one convolution's weight, with the signal that caused it.

    Args:
        geometry: The places that it reads.
        dweight: The gradient (O, C, K).
        full: The signal at the output (B, O, P) if every mask behind it were positive.
        mask: The mask (B, O, P) of the ReLU behind it. All True if there is none.
        doubts: Where the mask may be wrong (B, O, P).
        offset: A part of the signal (B, O, P) that no mask changes, as behind BatchNorm in train
            mode. None for 0.
    """

    geometry: Geometry
    dweight: Tensor
    full: Tensor
    mask: Tensor
    doubts: Tensor
    offset: Tensor | None = None

    @property
    def signal(self) -> Tensor:
        """The signal at the output (B, O, P)."""
        masked = self.full * self.mask
        return masked if self.offset is None else masked + self.offset

    def matrix(self) -> Tensor:
        """Return the matrix (O K, B N) of the gradient equations, which serves all input channels."""
        geometry, (batch, outputs, _) = self.geometry, self.full.shape
        found = self.full.new_zeros(outputs, geometry.taps, batch, geometry.places + 1)
        signal = self.signal.movedim(1, 0)  # (O, B, P)
        for tap in range(geometry.taps):
            # The places that one tap reads are distinct, but for the padding.
            found[:, tap].index_add_(2, geometry.sees[:, tap], signal)
        return found[..., : geometry.places].flatten(2).flatten(0, 1)

    @property
    def right(self) -> Tensor:
        """The right side (O K, C) of the equations."""
        return self.dweight.movedim(1, 2).flatten(0, 1)

    def gap(self, inputs: Tensor) -> Tensor:
        """Return the part (O K, C) of the gradient that inputs (B, C, N) do not explain."""
        return self.right - self.matrix() @ to_columns(inputs)


@dataclass(frozen=True, eq=False)
class OutputOf:
    """Known entries of a convolution's output.

    Args:
        geometry: The places that it reads.
        weight: The weight (O, C, K).
        output: The output without its bias (B, O, P).
        known: Marks the known entries (B, O, P).
    """

    geometry: Geometry
    weight: Tensor
    output: Tensor
    known: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output (B, O, P) of inputs (B, C, N), 0 where it is not known."""
        z = torch.einsum("bcpk,ock->bop", self.geometry.unfold(inputs), self.weight)
        return z * self.known

    def back(self, gap: Tensor) -> Tensor:
        """Return the adjoint (B, C, N) of `forward`."""
        return self.geometry.fold(torch.einsum("bop,ock->bcpk", gap * self.known, self.weight))


def to_columns(inputs: Tensor) -> Tensor:
    """Return inputs (B, C, N) as columns (B N, C), the layout of the unknowns."""
    return inputs.movedim(0, 1).flatten(1).T


def from_columns(columns: Tensor, batch: int) -> Tensor:
    """Return columns (B N, C) as inputs (B, C, N)."""
    return columns.T.reshape(columns.shape[1], batch, -1).movedim(0, 1)
