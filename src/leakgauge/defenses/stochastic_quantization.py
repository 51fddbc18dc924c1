"""QSGD. Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD, Communication-Efficient SGD via Gradient Quantization and
Encoding, NIPS 2017, section 3.1.

    Q(v_i) = ||v||_2 sign(v_i) xi_i / s,   xi_i in {l, l + 1},   E xi_i = s |v_i| / ||v||_2,   l its integer part
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.core import Claim, Seeds, Update
from leakgauge.core.ranges import Count
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class StochasticQuantization(Undefended):
    """Round each entry up or down at random to one of `levels` s >= 1 shares of its bucket's norm, right on average.

    A bucket is `bucket` >= 1 consecutive entries of one tensor; the last may be shorter. Four bits (a sign and 7
    levels) and buckets of 512 are settings of the paper's experiments as we recall them: not verified.
    """

    strength: ClassVar[str] = "levels"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update within one level",
        "whoever sees the update",
        "matches by squares: the rounding is right on average, and counts among errors",
    )
    levels: Count = 7
    bucket: Count = 512

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(2 * self.levels + 1))

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("stochastic quantization")
        return update.map(lambda t: self._quantized(t, generator))

    def _quantized(self, t: Tensor, generator: torch.Generator) -> Tensor:
        if t.numel() == 0:
            return t
        flat = functional.pad(t.flatten(), (0, -t.numel() % self.bucket)).view(-1, self.bucket)
        step = flat.norm(dim=1, keepdim=True) / self.levels
        shares = flat.abs() / step.clamp_min(torch.finfo(t.dtype).tiny)
        draws = torch.rand(t.shape, generator=generator, dtype=t.dtype).to(t.device).flatten()
        draws = functional.pad(draws, (0, flat.numel() - t.numel())).view_as(flat)
        rounded = shares.floor() + (draws < shares - shares.floor())
        sent: Tensor = step * flat.sign() * rounded
        return sent.flatten()[: t.numel()].view_as(t)
