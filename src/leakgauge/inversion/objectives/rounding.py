"""The likelihood of an update whose entries were rounded at random, right on average (Alistarh et al. 2017).

g between two multiples of s:   P(g* | g) = 1 - |g - g*| / s   for either,   0 for any other
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Tensors
from leakgauge.inversion.objectives.objective import Candidate, Term

EDGE = 0.95
"""From this share of a step on, a parabola of the same value and slope stands for the logarithm, which ends at 1."""


@dataclass(frozen=True, eq=False)
class RandomRounding(Term):
    """- sum_i log(1 - |g_i - g*_i| / s_i), s the step of each entry by parameter name: minus the log-likelihood."""

    steps: Tensors

    def __call__(self, candidate: Candidate) -> Tensor:
        parts = []
        for name, seen in candidate.observed.items():
            off = (candidate.simulated[name] - seen).abs() / self.steps[name].to(seen)
            parts.append(surprisal(off).sum())
        return torch.stack(parts).sum()


def surprisal(off: Tensor) -> Tensor:
    """- log(1 - off), entry by entry, of off >= 0; beyond EDGE its expansion to the second order."""
    beyond = (off - EDGE) / (1 - EDGE)
    parabola = -math.log(1 - EDGE) + beyond + beyond.square() / 2
    return torch.where(off < EDGE, -torch.log1p(-off.clamp(max=EDGE)), parabola)


__all__ = ["RandomRounding"]
