"""Conjugate gradients for a positive definite system."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], aim: Tensor, *, iterations: int, solved: float
) -> Tensor:
    """Return the solution of a positive definite system after at most this many iterations.

    Args:
        operator: The matrix, as a map of tensors of any one shape.
        aim: The right side.
        iterations: Largest number of iterations.
        solved: Relative residual at which the system counts as solved.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.conjugate_gradient import conjugate_gradient
        >>> sizes = torch.tensor([1.0, 4.0], dtype=torch.float64)
        >>> aim = torch.tensor([3.0, 8.0], dtype=torch.float64)
        >>> found = conjugate_gradient(lambda v: sizes * v, aim, iterations=5, solved=1e-10)
        >>> [round(value, 6) for value in found.tolist()]
        [3.0, 2.0]
    """
    found, rest = torch.zeros_like(aim), aim.clone()
    way, size = rest.clone(), float(rest.square().sum())
    first = size
    for _ in range(iterations):
        if size <= solved**2 * first:
            break
        image = operator(way)
        length = size / float((way * image).sum())
        found, rest = found + length * way, rest - length * image
        size, before = float(rest.square().sum()), size
        way = rest + (size / before) * way
    return found
