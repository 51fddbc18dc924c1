"""Orthonormal bases of one example's values, in which the first coefficients matter most.

A matrix over the first coefficients alone, and a diagonal for the others, stand for a Hessian that
would not fit: images are smooth, and smoothness priors are diagonal in cosines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """`to` and `back` are inverse to each other on (N, *shape) and (N, n); `back` is `to`'s transpose."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """n, the number of values of one example."""
        return math.prod(self.shape)

    def to(self, values: Tensor) -> Tensor:
        """Coefficients (N, n) of values (N, *shape), the most important first."""
        return values.reshape(-1, self.size)

    def back(self, coefficients: Tensor) -> Tensor:
        """Values (N, *shape) of coefficients (N, n)."""
        return coefficients.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Cosines(Basis):
    """The discrete cosine transform (DCT-II) of each channel of (C, H, W), smooth patterns first."""

    def to(self, values: Tensor) -> Tensor:
        down, across = self._matrices(values)
        spectrum = down @ values.reshape(-1, *self.shape) @ across.T
        return spectrum.flatten(1)[:, self._order.to(values.device)]

    def back(self, coefficients: Tensor) -> Tensor:
        down, across = self._matrices(coefficients)
        spectrum = torch.empty_like(coefficients)
        spectrum[:, self._order.to(coefficients.device)] = coefficients
        return down.T @ spectrum.reshape(-1, *self.shape) @ across

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        down, across = (cosines(side) for side in self.shape[-2:])
        return down.to(like), across.to(like)

    @property
    def _order(self) -> Tensor:
        """Coefficients by the Laplacian's eigenvalue, channels beside each other."""
        rows, columns = (2 - 2 * torch.cos(math.pi * torch.arange(s) / s) for s in self.shape[-2:])
        stiffness = (rows[:, None] + columns).expand(self.shape).flatten()
        return stiffness.argsort(stable=True)


def cosines(side: int) -> Tensor:
    """The orthonormal DCT-II matrix (side, side), a pattern a row."""
    places = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix


def basis_of(shape: tuple[int, ...], kind: str) -> Basis:
    """Cosines for images, the values themselves for anything else."""
    return Cosines(shape) if kind == "image" and len(shape) == 3 else Basis(shape)
