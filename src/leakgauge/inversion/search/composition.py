"""The parts of a gradient matching, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from leakgauge.core import Observation
from leakgauge.inversion.descents.descent import Descent
from leakgauge.inversion.objectives.objective import GeometricSchedule, Term, value_at_zero_update
from leakgauge.inversion.objectives.statistics import BatchStatistics
from leakgauge.inversion.search.consensus import Consensus
from leakgauge.inversion.variables.labels import Labels
from leakgauge.inversion.variables.parametrization import Direct, Parametrization

STATISTICS = 0.1
"""Weight of granted batch statistics. Results on images outside the benchmarks hardly changed between 0.01 and 1."""
RUNGS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Fractions of a descent. After each of the first three, successive halving drops the worse half.

Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""


def count_halved(restarts: int, evaluations: int) -> int:
    """Return the largest number of evaluations that successive halving spends.

    Without halving, each of the `restarts` would spend `evaluations`. A restart reaches a rung with
    the first evaluation at or after it.
    """
    spent, done = 0, 0
    for rung in RUNGS:
        reached = math.ceil(rung * evaluations)
        spent += restarts * (reached - done)
        done, restarts = reached, max(1, (restarts + 1) // 2)
    return spent


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The parts of a gradient matching. `GradientMatching` documents each."""

    objective: Term
    parametrization: Parametrization = field(default_factory=Direct)
    labels: Labels
    descent: Descent
    restarts: int = 1
    halving: bool = False
    tolerance: float = 0.0
    smoothing: float = 0.0
    statistics: float = STATISTICS
    group: Consensus | None = None
    precision: Literal["observed", "double", "mixed"] = "observed"

    @property
    def budget(self) -> int:
        """Largest number of simulated updates that a search computes."""
        last, spent = self.restarts, self.restarts * self.descent.evaluations
        if self.halving:
            spent = count_halved(self.restarts, self.descent.evaluations)
            # Three rungs drop the worse half.
            for _ in RUNGS[1:]:
                last = (last + 1) // 2
        # Only restarts that are never dropped may exceed their planned evaluations.
        whole = spent + last * (self.descent.bound - self.descent.evaluations)
        # At the end, each restart is scored once more, and so is their consensus.
        return whole if self.group is None else whole + self.restarts + 1

    def informed(self, observation: Observation) -> Term:
        """Return the objective, plus the term of the batch's statistics if they are granted."""
        term = BatchStatistics.of(observation)
        if self.statistics == 0 or term.inapplicable(observation) is not None:
            return self.objective
        weight = self.statistics * value_at_zero_update(self.objective, observation)
        # Inexact statistics guide the start of the search. Their weight then falls, so that they do
        # not keep the search from matching the update.
        return (
            self.objective
            + (weight if term.exact else GeometricSchedule(weight, 1e-4 * weight)) * term
        )
