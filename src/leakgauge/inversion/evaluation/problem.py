"""The problem that a descent gets: an objective of variables, on one observation."""

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
"""Variables of the inputs (B, *shape), then those of the labels (B, K) if the descent moves them."""


@dataclass(frozen=True)
class Problem:
    """The problem `min objective(candidate(variables))`, for one restart.

    Args:
        observation: The observation.
        objective: The objective.
        parametrization: The map from the inputs' variables to examples.
        labels: The map from the labels' variables to targets.
        fixed: The labels if the descent does not move them, else None.
    """

    observation: Observation
    objective: Term
    parametrization: Parametrization
    labels: Targets
    fixed: Tensor | None

    def decode(self, variables: Variables) -> tuple[Tensor, Tensor]:
        r"""Return examples (B, \*shape) in unit coordinates, and targets (B,) or (B, K)."""
        unit = self.parametrization.decode(variables[0])
        held = variables[1] if self.fixed is None else self.fixed
        return unit, self.labels.decode(held)

    def candidate(self, variables: Variables, simulate: Simulator) -> Candidate:
        """Return the candidate of these variables. Its update is empty if no term compares updates."""
        unit, targets = self.decode(variables)
        asked = any(term.matches for term in self.terms)
        simulated = simulate(unit, targets) if asked else {}
        return Candidate(unit, targets, simulated, self.observation.update.tensors)

    def weights(self, progress: float) -> tuple[float, ...]:
        """Return the weight of each term of the objective at this progress, from 0 to 1."""
        return tuple(weight for weight, _ in self.objective.parts(progress))

    @property
    def terms(self) -> tuple[Term, ...]:
        """Terms of the objective, in the order of `weights`."""
        return tuple(term for _, term in self.objective.parts(0.0))

    def value(
        self, variables: Variables, weights: Sequence[float] | Tensor, simulate: Simulator
    ) -> Tensor:
        """Return the weighted sum of the terms, a scalar."""
        candidate = self.candidate(variables, simulate)
        parts = [w * t(candidate) for w, t in zip(weights, self.terms, strict=True)]
        return torch.stack(parts).sum()
