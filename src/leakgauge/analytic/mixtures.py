"""The gradient of a linear layer as a mixture: [dW, db] = sum_j delta_j [h_j, 1]', one signal for each example.

By its singular vectors [dW, db] = left @ signals, where both have as many directions as stand out of the
noise, at most B. Every h_j is a combination of the signals, and every delta_j one of left's columns.
All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STANDS_OUT = 1.5
"""A singular value counts above so many times the largest that noise has, as expected or as seen."""
ROUNDING = 2.0**-24
"""Relative error of an update where no singular value is left over to measure it by."""


@dataclass(frozen=True)
class Mixture:
    """left (O, n), orthonormal; strength (n,), the singular values; signals (n, F + 1), the bias's last.

    noise is the standard deviation of an entry of the gradient that is not explained by n examples.
    """

    left: Tensor
    strength: Tensor
    signals: Tensor
    noise: float

    def blur(self, directions: Tensor) -> Tensor:
        """The standard deviation (k,) that noise causes in each entry of left @ directions (n, k)."""
        blur: Tensor = self.noise * (directions / self.strength[:, None]).norm(dim=0)
        return blur


def mixture(weight: Tensor, bias: Tensor, batch: int) -> Mixture:
    """The mixture that dW (O, F) and db (O,) of `batch` examples are. Noise is read from what is left over."""
    joined: Tensor = torch.cat([weight, bias.unsqueeze(1)], dim=1).double()
    left, strength, right = torch.linalg.svd(joined, full_matrices=False)
    outputs, width = joined.shape
    rest, freedom = strength[batch:], (outputs - batch) * (width - batch)
    noise, largest = ROUNDING * float(strength[0]) / math.sqrt(max(joined.shape)), 0.0
    if len(rest):
        # Updates in float64 leave over less than the decomposition itself rounds.
        noise = max(float(rest.norm()) / math.sqrt(freedom), 2.0**-53 * float(strength[0]))
        largest = float(rest[0])  # rounding is not even: some directions have more of it
    level = STANDS_OUT * max(noise * (math.sqrt(outputs) + math.sqrt(width)), largest)
    count = int((strength[:batch] > level).sum())
    kept = strength[:count]
    return Mixture(left[:, :count], kept, kept[:, None] * right[:count], noise)
