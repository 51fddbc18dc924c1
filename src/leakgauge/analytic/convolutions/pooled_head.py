"""The signal of a network that ends in a mean over positions and a linear layer, at batch size 1.

Let f (F,) be the features, the means over P positions of the last activations. The gradient of the
head's bias is `slope = dL/dz` (K,) at the logits z, and that of its weight is `slope f'`. Each position
of channel c then has the signal `S_c = (W' slope)_c / P`. Behind a ReLU it is `S_c` where the
activation is above 0, and 0 elsewhere.

A layer that adds a shift to every position of channel c has the sum of these signals as the gradient
of its shift. That is `S_c` times the number of positions where the activation is above 0.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Inapplicable

UNCERTAIN = 0.2
"""Distance of a number of active positions from an integer, from which on it is not certain."""
UNKNOWN = -1
"""A number of active positions that is not certain."""


@dataclass(frozen=True, eq=False)
class PooledHead:
    """What the gradient of the head tells of one example.

    Args:
        features: (F,), the inputs of the linear layer.
        slope: (K,), the loss's derivative at the logits.
        signal: (F,), the signal of each channel at every position before the mean.
        error: (F,), the rounding error of the signal.
        residual: Norm of the weight's gradient that the features and the slope leave unexplained,
            relative to its norm. At rounding level it certifies that there is one example.
    """

    features: Tensor
    slope: Tensor
    signal: Tensor
    error: Tensor
    residual: float


@dataclass(frozen=True, eq=False)
class ActiveCounts:
    """How many positions of each channel are active, and the gradient's mean over them.

    Args:
        counts: (F,), the numbers of active positions, from 0 to P. UNKNOWN if it is not certain.
        rows: (F, C, K), the mean patch over the active positions of each channel. 0 where the
            gradient is 0.
    """

    counts: Tensor
    rows: Tensor

    @property
    def levels(self) -> Tensor:
        """The signal (F,) of each active position in the units of the rows. 0 if it is not known."""
        return torch.where(self.counts > 0, 1 / self.counts.clamp_min(1).double(), 0.0)


def read_pooled_head(
    dweight: Tensor, dbias: Tensor, weight: Tensor, positions: int, *, error: float = 2.0**-24
) -> PooledHead | Inapplicable:
    """Return the features and the signal of one example, from the gradient of a linear layer.

    Args:
        dweight: The gradient (K, F) of the layer's weight.
        dbias: The gradient (K,) of its bias.
        weight: The layer's weight (K, F).
        positions: Number of positions P that each feature is the mean of.
        error: Relative error of the update's entries.

    Returns:
        What the head tells, or the reason why it tells nothing.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.pooled_head import read_pooled_head
        >>> weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -2.0]])
        >>> slope, features = torch.tensor([0.5, -0.5]), torch.tensor([1.0, 0.0, 3.0])
        >>> head = read_pooled_head(slope.outer(features), slope, weight, positions=4)
        >>> head.features.tolist(), head.signal.tolist()
        ([1.0, 0.0, 3.0], [0.125, -0.125, 0.5])
    """
    dweight, slope, weight = dweight.double(), dbias.double(), weight.double()
    if not bool(slope.any()):
        return Inapplicable("the gradient of the last layer's bias is 0")
    features = (slope @ dweight) / (slope @ slope)
    left = dweight - slope.outer(features)
    residual = float(left.norm() / dweight.norm().clamp_min(torch.finfo(torch.float64).tiny))
    signal = (weight.T @ slope) / positions
    spread = error * (weight.abs().T @ slope.abs()) / positions
    return PooledHead(features, slope, signal, spread, residual)


def count_active(
    dweight: Tensor, dshift: Tensor, scale: Tensor, head: PooledHead, positions: int
) -> ActiveCounts:
    """Return the number of active positions and the mean active patch of each channel.

    Args:
        dweight: The gradient `(F, C, *kernel)` of the weight of the last convolution.
        dshift: The gradient (F,) of the shift behind it: that of BatchNorm, or of the convolution.
        scale: (F,), the factor from the convolution's output to the shifted one.
        head: What the head tells.
        positions: Number of positions P of the convolution's output.
    """
    dshift, divisor = dshift.double(), (scale * dshift).double()
    tiny = torch.finfo(torch.float64).tiny
    size = head.signal.abs().clamp_min(tiny)
    ratio = dshift / size * head.signal.sign()
    counts = ratio.round()
    certain = (ratio - counts).abs() + ratio.abs() * head.error / size < UNCERTAIN
    certain &= (counts >= 0) & (counts <= positions) & (head.signal != 0)
    exists = divisor != 0
    means = dweight.double().flatten(2) / torch.where(exists, divisor, 1.0)[:, None, None]
    rows = torch.where(exists[:, None, None], means, 0.0)
    return ActiveCounts(torch.where(certain, counts, UNKNOWN).long(), rows)
