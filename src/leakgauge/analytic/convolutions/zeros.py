"""The size that exact zeros have in noisy values behind a ReLU."""

from __future__ import annotations

import torch
from torch import Tensor


def size_of_zeros(value: Tensor, error: float) -> Tensor:
    """Return the largest size `(B, C, ...)` that exact zeros have in a noisy value.

    They come out as small values of both signs, and the negative ones show their size. It
    differs between channels, since the rounding error of a gradient grows with its size.
    """
    low = (-value).clamp_min(0).flatten(2)
    floor = max(error, 1e-9) * float(value.max())
    typical = _root_mean_square(low, (0, 1, 2)).clamp_min(1e-2 * floor)
    channel = _root_mean_square(low, (0, 2)).clamp_min(0.3 * typical)
    most = max(float((low / channel).max()), 3.0)
    return (channel * most).reshape(1, -1, *[1] * (value.ndim - 2)).expand_as(value)


def _root_mean_square(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the root mean square of the values above 0 along axes, or of all if there are fewer than 8."""
    count = (values > 0).sum(axes, keepdim=True)
    squares = values.square().sum(axes, keepdim=True)
    whole = values.square().sum() / (values > 0).sum().clamp_min(1)
    return torch.where(count < 8, whole, squares / count.clamp_min(1)).sqrt()
