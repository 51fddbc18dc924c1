"""Wrong bits in the mask of a ReLU, told by what a gradient leaves unexplained.

A signal behind a ReLU is `full * mask`. A wrong bit at position p of output channel o changes row o of
the weight's gradient by `full[o, p] v_p`, v_p being the patch there. Where least squares finds the
inputs from the same gradient, it hides a part of this change, which the leverages tell. In each
channel, a few doubtful bits must explain the gap with coefficients of 1.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.equations import GradientOf

MOST = 6
"""Largest number of wrong bits of one channel that are found at once."""
CHANNELS = 48
"""Largest number of channels that are searched at once."""
NEAR_ONE = (0.7, 1.4)
"""Range of a coefficient that counts as 1."""
EXPLAINED = 0.5
"""Least fraction of a channel's squared gap that the bits must explain."""


@dataclass(frozen=True, eq=False)
class Gap:
    """What one gradient leaves unexplained.

    Args:
        gradient: The gradient with its mask.
        inputs: The inputs (B, C, N), where they are known.
        gap: The unexplained part (O K, C).
        leverage: Orthonormal columns (O K, r) of the equations from which the inputs follow. None
            if they do not follow from these.
    """

    gradient: GradientOf
    inputs: Tensor
    gap: Tensor
    leverage: Tensor | None

    @property
    def by_channel(self) -> Tensor:
        """The unexplained part (O, K, C)."""
        return self.gap.reshape(-1, self.gradient.geometry.taps, self.gap.shape[1])

    @property
    def energy(self) -> Tensor:
        """The squared gap (O,) of each channel, 0 for a channel without a doubtful bit."""
        doubted = self.gradient.doubts.any(2).any(0)
        return self.by_channel.square().sum((1, 2)) * doubted

    def wrong_bits(self, least: float) -> Tensor:
        """Return marks (B, O, P) of the bits that explain the gaps of at least this squared size."""
        wrong = torch.zeros_like(self.gradient.mask)
        energy = self.energy
        patches = self.gradient.geometry.unfold(self.inputs).movedim(1, 3)  # (B, P, K, C)
        for channel in energy.topk(min(CHANNELS, len(energy))).indices.tolist():
            if float(energy[channel]) >= least and float(energy[channel]) > 0:
                wrong[:, channel] = self._in_channel(channel, patches)
        return wrong

    def _in_channel(self, channel: int, patches: Tensor) -> Tensor:
        """Return marks (B, P) of the wrong bits of one channel, or none if no set explains its gap."""
        doubts = self.gradient.doubts[:, channel]
        found = torch.zeros_like(doubts)
        chosen = doubts.nonzero()
        # A bit that is 1 and should be 0 leaves -full v in the gap, and the other way round.
        change = self.gradient.full[:, channel] * (1.0 - 2.0 * self.gradient.mask[:, channel])
        columns = change[doubts][:, None, None] * patches[doubts]  # (n, K, C)
        if self.leverage is not None:
            taps = self.gradient.geometry.taps
            rows = self.leverage[channel * taps : (channel + 1) * taps]
            columns = columns - torch.einsum("kl,nlc->nkc", rows @ rows.T, columns)
        bits = sparse_bits(columns.flatten(1), self.by_channel[channel].flatten())
        for b, p in chosen[bits].tolist():
            found[b, p] = True
        return found


def sparse_bits(columns: Tensor, aim: Tensor) -> list[int]:
    """Return the indices of the few columns whose plain sum explains a vector best, or none.

    Columns are added one after the other (orthogonal matching pursuit). A set counts if all its
    coefficients are near 1, and if it explains at least half of the squared vector.

    Args:
        columns: Candidates (n, d).
        aim: The vector (d,).

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.bits import sparse_bits
        >>> columns = torch.eye(4, dtype=torch.float64)
        >>> sparse_bits(columns, torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64))
        [1, 3]
    """
    norms = columns.norm(dim=1).clamp_min(torch.finfo(columns.dtype).tiny)
    chosen: list[int] = []
    best: list[int] = []
    rest, total = aim, float(aim.square().sum())
    least = (1 - EXPLAINED) * total
    for _ in range(min(MOST, len(columns))):
        score = (columns @ rest).abs() / norms
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        basis = columns[chosen].T
        weights = torch.linalg.lstsq(basis, aim[:, None], driver="gelsd").solution[:, 0]
        rest = aim - basis @ weights
        if bool(((weights > NEAR_ONE[0]) & (weights < NEAR_ONE[1])).all()):
            left = float((aim - basis.sum(1)).square().sum())
            if left < least:
                best, least = sorted(chosen), 0.5 * left
    return best
