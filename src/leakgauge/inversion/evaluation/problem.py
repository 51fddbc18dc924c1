"""The problem that a descent is given: an objective of variables, on one observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Observation
from leakgauge.inversion.objectives.objective import Candidate, Term
from leakgauge.inversion.simulation.simulator import Simulator
from leakgauge.inversion.variables.labels import Targets
from leakgauge.inversion.variables.parametrization import Parametrization

Variables = tuple[Tensor, ...]
"""Inputs' variables (B, *shape), then the labels' (B, K) where the descent moves those."""


@dataclass(frozen=True)
class Problem:
    """What is minimized: objective(candidate(variables)), for one start of one attack.

    `fixed` holds the labels where the descent does not move them, else None.
    """

    observation: Observation
    objective: Term
    parametrization: Parametrization
    labels: Targets
    fixed: Tensor | None

    def decode(self, variables: Variables) -> tuple[Tensor, Tensor]:
        """unit (B, *shape) in unit coordinates, and targets (B,) or (B, K)."""
        unit = self.parametrization.decode(variables[0])
        held = variables[1] if self.fixed is None else self.fixed
        return unit, self.labels.decode(held)

    def candidate(self, variables: Variables, simulate: Simulator) -> Candidate:
        """What these variables stand for, and what it would have shared, where any term asks for that."""
        unit, targets = self.decode(variables)
        asked = any(term.matches for term in self.terms)
        simulated = simulate(unit, targets) if asked else {}
        return Candidate(unit, targets, simulated, self.observation.update.tensors)

    def weights(self, progress: float) -> tuple[float, ...]:
        """One for each term of the objective, at this share of the steps done."""
        return tuple(weight for weight, _ in self.objective.parts(progress))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the objective, in the order of `weights`."""
        return tuple(term for _, term in self.objective.parts(0.0))

    def value(
        self, variables: Variables, weights: Sequence[float] | Tensor, simulate: Simulator
    ) -> Tensor:
        """sum_i weight_i term_i, a scalar."""
        candidate = self.candidate(variables, simulate)
        parts = [w * t(candidate) for w, t in zip(weights, self.terms, strict=True)]
        return torch.stack(parts).sum()
