"""QSGD: each entry is rounded at random to a level."""

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

MOST_MULTIPLES = 256
"""Largest multiple of the step that is tried for the smallest value of a bucket."""
WHOLE = 1e-2
"""Largest distance of a multiple from a whole number, which leaves room for rounding."""


@dataclass(frozen=True, kw_only=True)
class StochasticQuantization(Undefended):
    r"""Round each entry up or down at random to a few levels (QSGD).

    It acts on the finished update, before it leaves the client. The rounding is unbiased: the mean
    over its random draws is the entry itself.

    .. math::

        Q(v_i) = \frac{\|v\|_2}{s} \, \mathrm{sign}(v_i) \, \xi_i, \qquad \xi_i \in \{l_i, l_i + 1\}, \qquad
        \mathbb{E} \, \xi_i = \frac{s |v_i|}{\|v\|_2}

    Here :math:`v` is a bucket of consecutive entries of one tensor, :math:`s` is `levels`, and
    :math:`l_i` is the integer part of :math:`s |v_i| / \|v\|_2`. The last bucket of a tensor may be
    shorter.

    An adaptive adversary knows the probability of each rounding, and seeks the most likely batch.
    The attack `BayesOptimal` does this. Other attacks match by squared differences.

    Args:
        levels: Number of levels above 0, at least 1. The default 7 fills four bits with the sign.
            It is ours.
        bucket: Entries of a bucket, at least 1. The default is ours.

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic. QSGD: Communication-Efficient SGD via Gradient
        Quantization and Encoding. NeurIPS 2017, section 3.1. arXiv:1610.02132.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([3.0, 4.0])})
        >>> defense = lg.defenses.StochasticQuantization(levels=5)
        >>> defense.on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([3., 4.])
    """

    strength: ClassVar[str] = "levels"
    claim: ClassVar[Claim] = Claim(
        "each entry of the update, within one level",
        "anyone who sees the update",
        "knows the probability of each rounding and seeks the most likely batch (attack bayes_optimal). Other attacks "
        "match by squared differences",
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
        """Return the distance between two levels, for each entry.

        QSGD sends the norm of each bucket beside the levels. Here the distance is found from the
        values.
        """
        return {name: self._steps(t) for name, t in observed.tensors.items()}

    def _steps(self, t: Tensor) -> Tensor:
        """Return the step of each entry of one tensor."""
        buckets = self._buckets(t.double())
        found = torch.stack([step_of(bucket, self.levels) for bucket in buckets])
        return found.repeat_interleave(self.bucket)[: t.numel()].view_as(t).to(t)

    def _buckets(self, t: Tensor) -> Tensor:
        """Return the entries as buckets (n, bucket), with zeros at the end."""
        return functional.pad(t.flatten(), (0, -t.numel() % self.bucket)).view(-1, self.bucket)

    def _quantized(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Return one tensor, rounded at random."""
        if t.numel() == 0:
            return t
        flat = self._buckets(t)
        step = flat.norm(dim=1, keepdim=True) / self.levels
        multiples = flat.abs() / step.clamp_min(torch.finfo(t.dtype).tiny)
        draws = torch.rand(t.shape, generator=generator, dtype=t.dtype).to(t.device).flatten()
        draws = functional.pad(draws, (0, flat.numel() - t.numel())).view_as(flat)
        rounded = multiples.floor() + (draws < multiples - multiples.floor())
        sent: Tensor = step * flat.sign() * rounded
        return sent.flatten()[: t.numel()].view_as(t)


def step_of(values: Tensor, levels: int) -> Tensor:
    """Return the step that explains the values of one bucket, a scalar, or infinity if all values are 0.

    All values are at most `levels` multiples of the step. Several steps may fit. Each divides the
    least value. The choice is the step at which the bucket's norm, `levels` steps, is nearest to
    the norm of the values.
    """
    sizes = values[values != 0].abs()
    if len(sizes) == 0:
        return values.new_full((), math.inf)
    steps = sizes.min() / torch.arange(1, min(levels, MOST_MULTIPLES) + 1).to(sizes)
    multiples = sizes / steps[:, None]
    apart = (multiples - multiples.round()).abs().amax(dim=1)
    fits = (apart < WHOLE) & (multiples.amax(dim=1) < levels + WHOLE)
    off = (levels * steps / sizes.norm()).log().abs()
    return steps[torch.where(fits, off, off + off.max() + 1).argmin()]
