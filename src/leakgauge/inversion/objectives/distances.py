"""Distances between the simulated and the observed update. All are zero where the two agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.core import CONVERGED_WITHIN, Observation, Tensors
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares, Term

MATCHED = CONVERGED_WITHIN
"""A relative residual of the update, ||g - g*|| / ||g*||, at which a reconstruction counts as converged."""


def squared_differences(simulated: Tensors, observed: Tensors) -> Tensor:
    """||g_l - g*_l||^2 for each tensor l, stacked (L,)."""
    return torch.stack([(simulated[n] - observed[n]).square().sum() for n in observed])


def squared_norms(tensors: Tensors) -> Tensor:
    """||g_l||^2 for each tensor l, stacked (L,)."""
    return torch.stack([t.square().sum() for t in tensors.values()])


def relative_residual(simulated: Tensors, observed: Tensors) -> Tensor:
    """Return ||g - g*|| / ||g*||: the measure by which different attacks on one observation compare.

    Both are divided by the largest entry of g* first: squares of 1e-30 are 0 in float32.
    """
    largest = max((float(t.abs().max()) for t in observed.values() if t.numel()), default=0.0)
    unit = largest or 1.0
    ours = {name: simulated[name].double() / unit for name in observed}
    theirs = {name: t.double() / unit for name, t in observed.items()}
    tiny = torch.finfo(torch.float64).tiny
    difference = squared_differences(ours, theirs).sum()
    return (difference / squared_norms(theirs).sum().clamp_min(tiny)).sqrt()


class Distance(LeastSquares):
    """A distance whose residuals are tensors shaped like the update's."""

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        """The residuals by parameter name, zero where the updates agree."""
        raise NotImplementedError

    def residuals(self, candidate: Candidate) -> Tensor:
        return torch.cat([t.flatten() for t in self.residual_tensors(candidate).values()])


@dataclass(frozen=True)
class L2(Distance):
    """sum_l ||g_l - g*_l||^2 (Zhu et al. 2019, equation 4)."""

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        return {n: candidate.simulated[n] - seen for n, seen in candidate.observed.items()}


@dataclass(frozen=True)
class L1(Term):
    """sum_l ||g_l - g*_l||_1 (Deng et al. 2021, TAG): most likely under Laplacian noise."""

    def __call__(self, candidate: Candidate) -> Tensor:
        pairs = ((candidate.simulated[n], seen) for n, seen in candidate.observed.items())
        return torch.stack([(ours - theirs).abs().sum() for ours, theirs in pairs]).sum()


@dataclass(frozen=True)
class LayerNorms(Term):
    """sum_l ||g_l - g*_l||, norms not squared (Yin et al. 2021): each tensor pulls alike until it fits."""

    def __call__(self, candidate: Candidate) -> Tensor:
        squares = squared_differences(candidate.simulated, candidate.observed)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt().sum()


@dataclass(frozen=True)
class BalancedL2(Distance):
    """sum_l ||g_l - g*_l||^2 / (||g*_l|| ||g*||): halfway, in logarithms, from plain to each tensor alike.

    Plain L2 hears the last layer alone, whose gradient is the largest; weights 1 / ||g*_l||^2 amplify the
    layers that say least. The weights are fixed by what was observed.
    """

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        simulated, observed = candidate.simulated, candidate.observed
        norms = squared_norms(observed).sqrt()
        # A tensor that a defense zeroed says nothing, and has no norm to divide by.
        weights = torch.where(norms > 0, 1 / (norms * norms.square().sum().sqrt()), 0.0).sqrt()
        scaled = zip(weights, observed, strict=True)
        return {n: w * (simulated[n] - observed[n]) for w, n in scaled}


@dataclass(frozen=True)
class Cosine(Distance):
    """1 - <g, g*> / (||g|| ||g*||) over the whole update (Geiping et al. 2020, equation 4).

    As residuals: || g / ||g|| - g* / ||g*|| ||^2 / 2.
    """

    def __call__(self, candidate: Candidate) -> Tensor:
        simulated, observed = candidate.simulated, candidate.observed
        inner = torch.stack([(simulated[n] * observed[n]).sum() for n in observed]).sum()
        return 1 - inner / (_norm(simulated) * _norm(observed))

    def residual_tensors(self, candidate: Candidate) -> Tensors:
        simulated, observed = candidate.simulated, candidate.observed
        ours, theirs = 0.5**0.5 / _norm(simulated), 0.5**0.5 / _norm(observed)
        return {n: simulated[n] * ours - seen * theirs for n, seen in observed.items()}


@dataclass(frozen=True)
class TensorCosine(Term):
    """1 - <g_l, g*_l> / (||g_l|| ||g*_l||) of one tensor l of the update, by name (Lu et al. 2022, equation 10)."""

    name: str

    def alone(self, candidate: Candidate) -> Candidate:
        """The candidate as if the tensor were the whole update."""
        simulated = {self.name: candidate.simulated[self.name]}
        observed = {self.name: candidate.observed[self.name]}
        return replace(candidate, simulated=simulated, observed=observed)

    def __call__(self, candidate: Candidate) -> Tensor:
        return Cosine()(self.alone(candidate))

    def residuals(self, candidate: Candidate) -> Tensor:
        return Cosine().residuals(self.alone(candidate))

    def inapplicable(self, observation: Observation) -> str | None:
        if self.name in observation.update.tensors:
            return None
        return f"no tensor of the update is called {self.name!r}"


def _norm(tensors: Tensors) -> Tensor:
    """||t||, clamped under the root, whose slope at zero is infinite."""
    square = squared_norms(tensors).sum()
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
