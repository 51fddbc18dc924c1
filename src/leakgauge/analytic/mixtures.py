"""The gradient of a linear layer as a mixture: one signal for each example, in float64.

The gradient is `[dW, db] = sum_j delta_j [h_j, 1]'`. Its singular value decomposition gives
`[dW, db] = left @ signals`. Only directions above the noise are used, at most B. Every h_j is a
linear combination of the signals. Every delta_j is a linear combination of the columns of left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STANDS_OUT = 1.5
"""A singular value counts if it exceeds the largest one of noise, expected or observed, by this factor."""
ROUNDING = 2.0**-24
"""Relative error of an update if no singular value is left over to measure it."""


@dataclass(frozen=True)
class Mixture:
    """A gradient as a product left @ signals.

    Args:
        left: (O, n), orthonormal.
        strength: (n,), the singular values.
        signals: (n, F + 1), the bias's column last.
        noise: Standard deviation of the noise on each entry of the gradient.
    """

    left: Tensor
    strength: Tensor
    signals: Tensor
    noise: float

    def blur(self, directions: Tensor) -> Tensor:
        """Return the standard deviation (k,) of the noise on each entry of left @ directions (n, k)."""
        blur: Tensor = self.noise * (directions / self.strength[:, None]).norm(dim=0)
        return blur


def mixture(weight: Tensor, bias: Tensor, batch: int) -> Mixture:
    """Return the mixture of `batch` examples with the gradients dW (O, F) and db (O,).

    The noise is measured from the singular values beyond the first `batch`.
    """
    joined: Tensor = torch.cat([weight, bias.unsqueeze(1)], dim=1).double()
    left, strength, right = torch.linalg.svd(joined, full_matrices=False)
    outputs, width = joined.shape
    rest, freedom = strength[batch:], (outputs - batch) * (width - batch)
    noise, largest = ROUNDING * float(strength[0]) / math.sqrt(max(joined.shape)), 0.0
    if len(rest):
        # The rest of an update in float64 can be smaller than the rounding of the decomposition.
        noise = max(float(rest.norm()) / math.sqrt(freedom), 2.0**-53 * float(strength[0]))
        largest = float(rest[0])  # rounding errors are larger in some directions
    level = STANDS_OUT * max(noise * (math.sqrt(outputs) + math.sqrt(width)), largest)
    count = int((strength[:batch] > level).sum())
    kept = strength[:count]
    return Mixture(left[:, :count], kept, kept[:, None] * right[:count], noise)
