"""A convolution in front of a max pool, and what is known of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry

AMPLE = 2.0
"""Gradient equations for each unknown from which on the outputs do not enter the input."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """A convolution, an affine map of each channel, perhaps a ReLU, and a max pool.

    Args:
        geometry: The places that the convolution reads.
        weight: Its weight (O, C, K).
        dweight: The gradient of its weight (O, C, K).
        factor: (O,), factor from the convolution's output to the pool's input.
        shift: (O,), shift between the two.
        windows: Positions (W, Q) of each window of the pool. P stands for its padding.
        value: The pool's output (B, O, W).
        signal: The signal at the pool's output (B, O, W).
        rectified: Whether a ReLU is in front of the pool.
        positive: Whether the convolution's input is nonnegative.
    """

    geometry: Geometry
    weight: Tensor
    dweight: Tensor
    factor: Tensor
    shift: Tensor
    windows: Tensor
    value: Tensor
    signal: Tensor
    rectified: bool
    positive: bool

    @cached_property
    def shown(self) -> Tensor:
        """Marks (B, O, W) of windows whose output is not the ReLU's 0."""
        return self.value > 0 if self.rectified else torch.ones_like(self.value, dtype=torch.bool)

    @cached_property
    def ample(self) -> bool:
        """Whether the gradient alone has many more equations than the input has values."""
        equations, unknowns = self.counts
        return equations >= AMPLE * unknowns

    @property
    def counts(self) -> tuple[int, int]:
        """Number of the gradient's equations, and of unknowns, for each channel of the input."""
        rows = int(self.sent.any(2).any(0).sum()) * self.geometry.taps
        return rows, len(self.value) * self.geometry.places

    @cached_property
    def sent(self) -> Tensor:
        """The signal (B, O, W) that passes the ReLU, at the convolution's output."""
        return self.signal * self.shown * self.factor[:, None]

    @cached_property
    def aims(self) -> Tensor:
        """The convolution's output without its shift (B, O, W) at the place of each window."""
        return (self.value - self.shift[:, None]) / self.factor[:, None]

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the convolution's output without shift (B, O, P) for inputs (B, C, N)."""
        return torch.einsum("bcpk,ock->bop", self.geometry.unfold(inputs), self.weight)

    def back(self, outputs: Tensor) -> Tensor:
        """Return the adjoint (B, C, N) of `outputs`."""
        return self.geometry.fold(torch.einsum("bop,ock->bcpk", outputs, self.weight))

    def view(self, outputs: Tensor) -> Tensor:
        """Return the pool's input (B, O, W, Q), with minus infinity for its padding."""
        y = outputs * self.factor[:, None] + self.shift[:, None]
        padded = torch.nn.functional.pad(y, (0, 1), value=-torch.inf)
        return padded[..., self.windows]

    def spread(self, of_windows: Tensor) -> Tensor:
        """Return numbers (B, O, W, Q) of places, summed to positions (B, O, P)."""
        total = of_windows.new_zeros(*of_windows.shape[:2], self.geometry.positions + 1)
        total.index_add_(2, self.windows.flatten(), of_windows.flatten(2))
        return total[..., :-1]
