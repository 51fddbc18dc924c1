"""The likelihood of an update whose entries were rounded at random to a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Tensors
from leakgauge.inversion.objectives.objective import Candidate, Term

EDGE = 0.95
"""From this fraction of a step on, a parabola replaces the logarithm, which is infinite at a whole step."""


@dataclass(frozen=True, eq=False)
class RandomRounding(Term):
    r"""Minus the log-likelihood of an update whose entries were rounded at random, unbiased.

    .. math::

        - \sum_i \log \left( 1 - \frac{| g_i - g^*_i |}{s_i} \right)

    Here :math:`g_i` is an entry of the simulated update, :math:`g^*_i` the observed entry, and
    :math:`s_i` the step of the grid. An entry between two grid points goes to one of them with
    probability :math:`1 - |g_i - g^*_i| / s_i`, and never to another point. From 95% of a step on,
    a parabola with the same value and slope replaces the logarithm, so the value stays finite.

    Use it if the known defense is quantization such as QSGD.

    Args:
        steps: Step of the grid for each entry, above 0, by parameter name.

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic. QSGD: Communication-Efficient SGD via Gradient
        Quantization and Encoding. NeurIPS 2017. arXiv:1610.02132.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, RandomRounding
        >>> simulated, observed = {"w": torch.tensor([0.25])}, {"w": torch.tensor([0.5])}
        >>> term = RandomRounding(steps={"w": torch.tensor([0.5])})
        >>> term(Candidate(torch.zeros(1), torch.zeros(1), simulated, observed))
        tensor(0.6931)
    """

    steps: Tensors

    def __call__(self, candidate: Candidate) -> Tensor:
        parts = []
        for name, observed in candidate.observed.items():
            off = (candidate.simulated[name] - observed).abs() / self.steps[name].to(observed)
            parts.append(surprisal(off).sum())
        return torch.stack(parts).sum()


def surprisal(off: Tensor) -> Tensor:
    """Return `-log(1 - off)` of each distance `off` >= 0, in steps of the grid. From EDGE on, return a parabola."""
    beyond = (off - EDGE) / (1 - EDGE)
    parabola = -math.log(1 - EDGE) + beyond + beyond.square() / 2
    return torch.where(off < EDGE, -torch.log1p(-off.clamp(max=EDGE)), parabola)


__all__ = ["RandomRounding"]
