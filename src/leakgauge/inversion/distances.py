"""Distances between the simulated and the observed update. All are zero where the two agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Tensors
from leakgauge.inversion.objective import Candidate, Term

MATCHED = 1e-3
"""A relative residual of the update, ||g - g*|| / ||g*||, at which a reconstruction counts as converged."""


def squared_differences(simulated: Tensors, observed: Tensors) -> Tensor:
    """||g_l - g*_l||^2 for each tensor l, stacked (L,)."""
    return torch.stack([(simulated[n] - observed[n]).square().sum() for n in observed])


def squared_norms(tensors: Tensors) -> Tensor:
    """||g_l||^2 for each tensor l, stacked (L,)."""
    return torch.stack([t.square().sum() for t in tensors.values()])


def relative_residual(simulated: Tensors, observed: Tensors) -> Tensor:
    """||g - g*|| / ||g*||: the measure by which different attacks on one observation compare."""
    tiny = torch.finfo(torch.float64).tiny
    difference = squared_differences(simulated, observed).double().sum()
    return (difference / squared_norms(observed).double().sum().clamp_min(tiny)).sqrt()


@dataclass(frozen=True)
class L2(Term):
    """sum_l ||g_l - g*_l||^2 (Zhu et al. 2019, equation 4)."""

    def __call__(self, candidate: Candidate) -> Tensor:
        return squared_differences(candidate.simulated, candidate.observed).sum()


@dataclass(frozen=True)
class BalancedL2(Term):
    """sum_l ||g_l - g*_l||^2 / (||g*_l|| ||g*||): halfway, in logarithms, from plain to each tensor alike.

    Plain L2 hears the last layer alone, whose gradient is the largest; weights 1 / ||g*_l||^2 amplify the
    layers that say least. The weights are fixed by what was observed.
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        norms = squared_norms(candidate.observed).sqrt()
        # A tensor that a defense zeroed says nothing, and has no norm to divide by.
        weights = torch.where(norms > 0, 1 / (norms * norms.square().sum().sqrt()), 0.0)
        return (weights * squared_differences(candidate.simulated, candidate.observed)).sum()


@dataclass(frozen=True)
class Cosine(Term):
    """1 - <g, g*> / (||g|| ||g*||) over the whole update (Geiping et al. 2020, equation 4)."""

    def __call__(self, candidate: Candidate) -> Tensor:
        simulated, observed = candidate.simulated, candidate.observed
        inner = torch.stack([(simulated[n] * observed[n]).sum() for n in observed]).sum()
        # Clamped under the root, whose slope at zero is infinite.
        tiny = torch.finfo(inner.dtype).tiny
        squares = [squared_norms(t).sum().clamp_min(tiny) for t in (simulated, observed)]
        return 1 - inner / (squares[0].sqrt() * squares[1].sqrt())
