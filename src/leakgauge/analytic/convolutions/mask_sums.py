"""Wrong bits in the mask of a ReLU, told by the gradient of the shift in front of it.

The gradient of a shift is the sum of the signals behind it, over the positions with bit 1:
`dbeta[o] = sum_bp S[b, o, p] m[b, o, p]`. So each channel has one equation for its bits. Only a few
bits, of values near 0, are in doubt, and one or two of them must explain the gap.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 12
"""Largest number of bits of one channel that may be wrong: those of the values nearest to 0."""
TOLD = 30.0
"""A gap counts if it exceeds this multiple of the typical gap."""
CLOSED = 1e-4
"""Fraction of a gap that the flipped bits may leave in any case."""


def wrong_bits(signal: Tensor, mask: Tensor, doubts: Tensor, dshift: Tensor) -> Tensor:
    """Return marks (B, O, P) of the bits that explain the gaps between a shift's gradient and its mask.

    Args:
        signal: Signal S (B, O, P) behind the ReLU.
        mask: The bits (B, O, P).
        doubts: For each value (B, O, P), how far it is from 0, in any unit.
        dshift: The gradient (O,) of the shift.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.mask_sums import wrong_bits
        >>> signal = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]).expand(1, 3, 4)
        >>> mask = torch.tensor([[[True, False, True, True]]]).expand(1, 3, 4)
        >>> doubts = torch.tensor([[[0.1, 0.2, 3.0, 3.0]]]).expand(1, 3, 4)
        >>> wrong_bits(signal, mask, doubts, torch.tensor([13.0, 15.0, 13.0])).nonzero().tolist()
        [[0, 1, 1]]
    """
    found = torch.zeros_like(mask)
    gaps = dshift - (signal * mask).sum((0, 2))
    size = (signal.square() * mask).sum((0, 2)).sqrt()
    typical = gaps.abs().median().clamp_min(1e-7 * size.median())
    for channel in (gaps.abs() > TOLD * typical).nonzero()[:, 0].tolist():
        near = doubts[:, channel].flatten().argsort()[:CANDIDATES]
        values, bits = signal[:, channel].flatten()[near], mask[:, channel].flatten()[near]
        change = values * (1.0 - 2.0 * bits)
        chosen = _best(change, gaps[channel], float(typical))
        for index in near[chosen].tolist():
            example, position = divmod(index, mask.shape[2])
            found[example, channel, position] = True
    return found


def _best(change: Tensor, gap: Tensor, typical: float) -> list[int]:
    """Return the indices of one or two changes (n,) whose sum is the gap, or none."""
    least = max(5 * typical, CLOSED * float(gap.abs()))
    left = (gap - change).abs()
    if float(left.min()) < least:
        return [int(left.argmin())]
    pairs = (gap - change[:, None] - change[None]).abs()
    pairs.fill_diagonal_(torch.inf)
    if float(pairs.min()) < least:
        return list(divmod(int(pairs.argmin()), len(change)))
    return []
