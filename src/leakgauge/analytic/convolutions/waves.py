"""Images as sums of cosine waves, and the objective of the search for an image.

References:
    Ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.terms import Terms, Typed

OUTSIDE = 10.0
"""Weight of values outside of [0, 1] in the prior."""


class Objective(Protocol):
    """The objective of some examples."""

    def __call__(self, c: Tensor, prior: float) -> Tensor:
        """Return the values (n,) at coefficients of waves, with this weight of the prior."""
        ...


@dataclass(frozen=True, eq=False)
class Waves:
    """Images as sums of cosine waves, with amplitudes that fall with the frequency.

    Args:
        size: The image's size along each axis.
        like: A tensor of the type and device.
    """

    size: tuple[int, ...]
    like: Tensor

    def amplitudes(self) -> Tensor:
        """Return the amplitude of each wave, `(*size)`."""
        squares = torch.zeros(self.size).to(self.like)
        for axis, length in enumerate(self.size):
            shape = [-1 if i == axis else 1 for i in range(len(self.size))]
            squares = squares + torch.arange(length).to(self.like).reshape(shape).square()
        return 1 / (1 + squares.sqrt())

    def image(self, waves: Tensor) -> Tensor:
        """Return images `(n, C, *size)` around 1/2 from coefficients of the same shape."""
        found = waves * self.amplitudes()
        for length in self.size:  # Each product moves its axis behind the others.
            found = torch.tensordot(found, self._matrix(length), ([2], [0]))
        return found + 0.5

    def coefficients(self, images: Tensor) -> Tensor:
        """Return the coefficients of images `(n, C, *size)`."""
        found = images - 0.5
        for length in self.size:
            found = torch.tensordot(found, self._matrix(length), ([2], [1]))
        return found / self.amplitudes()

    def _matrix(self, length: int) -> Tensor:
        """Return the orthonormal cosine transform (length, length): row k is wave k."""
        k = torch.arange(length, dtype=torch.float64)[:, None]
        matrix = torch.cos(math.pi * (torch.arange(length) + 0.5) * k / length)
        matrix = matrix * math.sqrt(2 / length)
        matrix[0] /= math.sqrt(2)
        return matrix.to(self.like)


@dataclass(frozen=True, eq=False)
class WaveObjective:
    """The terms of some examples and a prior, as a function of coefficients of waves.

    Args:
        terms: The terms of all examples.
        which: Indices (n,) of these examples. An example may occur several times.
        waves: The waves, in the type of the search.
        softness: Width of the softplus that replaces each ReLU, in units of the root mean square of its
            input. 0 for ReLUs.
    """

    terms: Terms
    which: Tensor
    waves: Waves
    softness: float = 0.0

    @cached_property
    def typed(self) -> Typed:
        """The terms in the type of the search, with the ReLUs softened."""
        network = replace(self.terms.network, softness=self.softness)
        return replace(self.terms, network=network).to(self.which, self.waves.like)

    def __call__(self, c: Tensor, prior: float) -> Tensor:
        """Return the values (n,) at coefficients `(n, C, *size)`, with this weight of the prior."""
        unit = self.waves.image(c)
        total = torch.stack([r.square().sum(1) for r in self.typed.residuals(unit)]).sum(0)
        outside = (unit - unit.clamp(0, 1)).square().flatten(1).mean(1)
        return total + prior * (c.square().flatten(1).mean(1) + OUTSIDE * outside)
