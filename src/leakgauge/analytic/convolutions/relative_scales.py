"""The relative scales of the examples in front of BatchNorm in train mode, from the row space alone.

Behind the convolution, the signal of each channel sums to 0 over the batch. So the row space of the
gradient holds only differences of patches. Outside of it, all patches of the batch are therefore the
same vector: `(1 - Pi) v_bp = q` for all examples b and positions p. An input that is known up to its
scale has the patches `t_b v_bp`, which miss the row space by `t_b q`. So the scales t_b follow, up to
one common factor.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.span import RowSpace


def relative_scales(inputs: Tensor, space: RowSpace, geometry: Geometry) -> Tensor:
    """Return factors (B,) that bring inputs (B, C, N) to one common scale. The first is 1.

    Args:
        inputs: The inputs of all examples, each up to its scale.
        space: The row space of the gradient, of rank `B P - 1`.
        geometry: The places that the convolution reads.
    """
    patches = geometry.unfold(inputs).movedim(-3, -2).flatten(-2)  # (B, P, C K)
    mean = patches.mean(1)
    missed = mean - (mean @ space.basis.T) @ space.basis
    common = torch.linalg.svd(missed, full_matrices=False)[2][0]
    sizes = missed @ common
    scales: Tensor = sizes[0] / sizes
    return scales
