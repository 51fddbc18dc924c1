r"""What gradients tell of a layer's input where they leave a part of it open, example by example.

The equations :math:`A u = b` of a batch may have fewer independent rows than unknowns. A mean pool behind
the layer makes all signals of a window equal, for example. They determine the products
:math:`e^\top u` with all vectors e of their row space. Those that are 0 outside of one example tell a part of this
example alone.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.equations import GradientOf, from_columns

FAINT = 3e-3
"""Singular values of the equations below this fraction of the largest do not count."""
INSIDE = 1e-6
"""Largest distance from 1 of the norm of a unit vector's projection on the row space that holds it."""
LARGEST = 2304
"""Largest number of unknowns of a channel, over the batch, for which parts are sought."""


def determined_parts(gradients: Sequence[GradientOf]) -> tuple[Tensor, Tensor] | None:
    """Return equations for single examples that follow from the gradients of a batch, or None if there are none.

    Args:
        gradients: Gradients of layers that share an input, with known signals.

    Returns:
        Orthonormal rows (B, r, N), some of them 0, and their right sides (B, r, C).

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.determined_parts import determined_parts
        >>> from leakgauge.analytic.convolutions.equations import GradientOf
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> draws = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(2, 3, 16, generator=draws, dtype=torch.float64)
        >>> geometry = geometry_of((4, 4), kernel=(1, 1))
        >>> signal = torch.randn(2, 12, 4, 1, generator=draws, dtype=torch.float64).expand(-1, -1, -1, 4).flatten(2)
        >>> dweight = torch.einsum("bop,bcp->oc", signal, inputs)[..., None]
        >>> marks = torch.ones_like(signal, dtype=torch.bool)
        >>> found = determined_parts([GradientOf(geometry, dweight, signal, marks, ~marks)])
        >>> found[0].shape, bool(torch.allclose(found[0] @ inputs.mT, found[1]))
        (torch.Size([2, 4, 16]), True)
    """
    batch = gradients[0].full.shape[0]
    unknowns = batch * gradients[0].geometry.places
    if unknowns > LARGEST:
        return None
    rows = torch.cat([g.matrix() for g in gradients])
    right = torch.cat([g.right for g in gradients])
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    strong = values > FAINT**2 * values[-1]
    if not bool(strong.any()):
        return None
    basis, values = vectors[:, strong], values[strong]
    least = basis @ ((basis.T @ (rows.T @ right)) / values[:, None])
    inputs = from_columns(least, batch)  # (B, C, N)
    parts = []
    for block in basis.unflatten(0, (batch, -1)):
        left, sizes, _ = torch.linalg.svd(block, full_matrices=False)
        parts.append(left[:, sizes > 1 - INSIDE].T)
    most = max(len(part) for part in parts)
    if not most:
        return None
    padded = [torch.nn.functional.pad(part, (0, 0, 0, most - len(part))) for part in parts]
    matrix = torch.stack(padded)
    return matrix, matrix @ inputs.mT
