r"""The gradient of a convolution below a max pool, for an image and probable places of the maxima.

With signals s of the pool's windows and probabilities m of their places, the expected gradient is

.. math::

    dW_o = \sum_w s_{o w} \sum_q m_{o w q} \, v_{p(w, q)}

It is linear in the image's patches v. Where the pool's outputs leave an image open, it tells the rest.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.pool_descent import pool_at_the_end

SMALLEST = 1e-150
"""Least root mean square of a gradient, so that its square is above 0."""
LEAST = 1e-12
"""Least variance of the gradient's entries, relative to their mean square."""


@dataclass(frozen=True, eq=False)
class GradientBelow:
    """The gradient of a convolution below a max pool, for a batch of one.

    Args:
        source: The node of the convolution's input.
        pooled: What is known of both.
    """

    source: fx.Node
    pooled: Pooled

    @property
    def unit(self) -> float:
        """Root mean square of the gradient, the unit of gaps and signals. So an update of any scale fits float32."""
        return max(float(self.pooled.dweight.square().mean().sqrt()), SMALLEST)

    def gap(self, inputs: Tensor, signal: Tensor) -> Tensor:
        """Return what inputs (1, C, N) and signals (1, O, P) at the convolution's output leave, as (O, C, K)."""
        patches = self.pooled.geometry.unfold(inputs)[0]  # (C, P, K)
        found = torch.einsum("op,cpk->ock", signal[0], patches)
        return found - (self.pooled.dweight / self.unit).to(inputs)

    def signal(self, places: Tensor) -> Tensor:
        """Return the signals (1, O, P) for probabilities (1, O, W, Q) of places."""
        sent = (self.pooled.sent / self.unit).to(places)
        return self.pooled.spread(places * sent[..., None])

    def misfit(self, inputs: Tensor, places: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the map from inputs (1, C, N) to the misfit (1,), in units of what is left now.

        Args:
            inputs: The present inputs.
            places: Probabilities (1, O, W, Q) of the places.
        """
        signal = self.signal(places)
        left = self.gap(inputs, signal).square().mean((1, 2), keepdim=True).clamp_min(LEAST)
        return lambda moved: (self.gap(moved, signal).square() / (2 * left)).sum()[None]


def gradient_below(descent: Descent) -> GradientBelow | None:
    """Return the gradient below the max pool at the end of a descent of one example, or None."""
    if descent.known.count > 1 or descent.errors is not None:
        return None
    found = pool_at_the_end(descent)
    return None if found is None else GradientBelow(found.layer.source, found.pooled)
