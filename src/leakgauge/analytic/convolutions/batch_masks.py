"""The masks and inputs of several examples, from a convolution with fewer channels than positions.

The problem is that of `recover_masks`, without the numbers of active positions. B examples have B P
positions, and the gradient has rank at most O. If O is smaller, the patches lie only nearly in the
row space of the gradient. The span of the inputs is then a start with errors of order 1.

1. *Start*: the row sums of the signals that fit to the span tell how its vectors mix.
2. *Homotopy*: alternating least squares with bounds. The patches are also pulled to their projection
   on the row space, first strongly, then less and less. The limit is the problem without the pull.
3. *End*: masks are rounded, inputs follow from a linear system, and the masks from them in turn. Rows
   that fit badly have wrong bits and get small weights. At last, errors of the given signals are fitted.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.binary_masks import CERTAIN, MaskedInputs
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.mask_homotopy import SCHEDULES, Homotopy, Rounded, mask_search
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet


def separate_masks(
    rows: Tensor,
    sums: Tensor,
    levels: Tensor,
    span: Tensor,
    geometry: Geometry,
    *,
    tolerance: float = CERTAIN,
    schedules: tuple[Homotopy, ...] = SCHEDULES,
    beat: Beat = quiet,
) -> MaskedInputs | Inapplicable:
    """Return the masks and the inputs of several examples behind one gradient.

    Args:
        rows: (O, C, K), the gradient of the convolution's weight, divided by the factor from its
            output to the ReLU's input.
        sums: (O,), the gradient of a shift behind the convolution, in front of the ReLU.
        levels: (O, B), the signal of each channel and example where the ReLU passes it. Relative
            errors of 1e-3 are fitted.
        span: (B, C, N), vectors that nearly span the inputs, such as those of `span_of`.
        geometry: The places that the convolution reads.
        tolerance: Relative residual that certifies the result.
        schedules: Schedules that are tried until one is certified.
        beat: Called in each sweep.

    Returns:
        The masks and inputs of the smallest residual, or the reason why the gradient has too few rows.
        Each example's inputs have the scale of its levels.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.batch_masks import separate_masks
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> generator = torch.Generator().manual_seed(0)
        >>> geometry = geometry_of((4, 4), kernel=(3, 3), padding=1)
        >>> inputs = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64).relu()
        >>> levels = torch.randn(40, 2, generator=generator, dtype=torch.float64)
        >>> masks = torch.rand(2, 40, 16, generator=generator) < 0.5
        >>> signals = levels.T[:, :, None] * masks
        >>> rows = torch.einsum("bop,bcpk->ock", signals, geometry.unfold(inputs))
        >>> turned = torch.tensor([[1.0, 0.5], [-0.3, 1.0]], dtype=torch.float64)
        >>> span = torch.einsum("ab,bcn->acn", turned, inputs)
        >>> found = separate_masks(rows, signals.sum((0, 2)), levels, span, geometry)
        >>> found.certified, torch.equal(found.masks, masks)
        (True, True)
    """
    used = rows.flatten(1).any(1) & levels.any(1)
    equations, unknowns = int(used.sum()) * geometry.taps, len(span) * geometry.places
    if equations < unknowns:
        return Inapplicable(
            f"{equations} equations ({int(used.sum())} channels with a signal, {geometry.taps} taps) "
            f"for {unknowns} unknowns ({len(span)} examples, {geometry.places} places)"
        )
    parts = (rows[used].double(), sums[used].double(), levels[used].double())
    search = mask_search(*parts, geometry, beat)
    start = search.start(span.double())
    best, total = Rounded(start, torch.inf), 0
    for schedule in schedules:
        found, done = search.follow(start, schedule, tolerance)
        total += done
        best = min(best, found, key=lambda rounded: rounded.residual)
        if best.residual < tolerance:
            break
    masks = torch.zeros((len(span), len(rows), geometry.positions), dtype=torch.bool).to(used)
    masks[:, used] = (best.factors.signals != 0).movedim(0, 1)
    certified = best.residual < tolerance
    return MaskedInputs(best.factors.inputs, masks, used, best.residual, certified, total)
