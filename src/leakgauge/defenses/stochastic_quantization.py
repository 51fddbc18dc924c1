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

from leakgauge.core import Claim, Effect, Encoding, Rounding, Seeds, Tensors, Update
from leakgauge.core.ranges import Count
from leakgauge.defenses.base import Undefended

MOST_SHARES = 256
"""At so many multiples of the step the least value of a bucket is looked for, at most."""
WHOLE = 1e-2
"""How far from a whole number a multiple may be, by rounding."""


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
        "knows how likely each rounding is, given an update, and seeks the most likely batch (`bayes_optimal`); "
        "others match by squares",
    )
    levels: Count = 7
    bucket: Count = 512

    @property
    def effects(self) -> tuple[Effect, ...]:
        bits = math.ceil(math.log2(2 * self.levels + 1))
        return Encoding(bits=bits), Rounding(steps=self.steps)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        generator = seeds.generator("stochastic quantization")
        return update.map(lambda t: self._quantized(t, generator))

    def steps(self, observed: Update) -> Tensors:
        """A share of each bucket's norm, which QSGD sends beside the levels; here read from the values."""
        return {name: self._steps(t) for name, t in observed.tensors.items()}

    def _steps(self, t: Tensor) -> Tensor:
        buckets = self._buckets(t.double())
        found = torch.stack([step_of(bucket, self.levels) for bucket in buckets])
        return found.repeat_interleave(self.bucket)[: t.numel()].view_as(t).to(t)

    def _buckets(self, t: Tensor) -> Tensor:
        """(n, bucket) the entries, zeros at the end."""
        return functional.pad(t.flatten(), (0, -t.numel() % self.bucket)).view(-1, self.bucket)

    def _quantized(self, t: Tensor, generator: torch.Generator) -> Tensor:
        if t.numel() == 0:
            return t
        flat = self._buckets(t)
        step = flat.norm(dim=1, keepdim=True) / self.levels
        shares = flat.abs() / step.clamp_min(torch.finfo(t.dtype).tiny)
        draws = torch.rand(t.shape, generator=generator, dtype=t.dtype).to(t.device).flatten()
        draws = functional.pad(draws, (0, flat.numel() - t.numel())).view_as(flat)
        rounded = shares.floor() + (draws < shares - shares.floor())
        sent: Tensor = step * flat.sign() * rounded
        return sent.flatten()[: t.numel()].view_as(t)


def step_of(values: Tensor, levels: int) -> Tensor:
    """The step of which all `values` of one bucket are at most `levels` multiples, a scalar; infinite where all are 0.

    Of several such steps, a share of the least value each, that at which the bucket's norm, `levels` steps, is
    nearest to that of the values.
    """
    sizes = values[values != 0].abs()
    if len(sizes) == 0:
        return values.new_full((), math.inf)
    steps = sizes.min() / torch.arange(1, min(levels, MOST_SHARES) + 1).to(sizes)
    multiples = sizes / steps[:, None]
    apart = (multiples - multiples.round()).abs().amax(dim=1)
    fits = (apart < WHOLE) & (multiples.amax(dim=1) < levels + WHOLE)
    off = (levels * steps / sizes.norm()).log().abs()
    return steps[torch.where(fits, off, off + off.max() + 1).argmin()]
