"""The engine of gradient matching: one composition, of which each paper is a recipe.

minimize over x, y   distance(update(x, y), observed update) + priors(x)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import (
    Cost,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Status,
    Tensors,
    silent,
)
from leakgauge.inversion.descent import Descent
from leakgauge.inversion.distances import MATCHED, relative_residual
from leakgauge.inversion.labels import Labels
from leakgauge.inversion.objective import Candidate, Term
from leakgauge.inversion.parametrization import Direct
from leakgauge.inversion.simulation import in_double, simulator


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Search for inputs (and labels) whose simulated update is the observed one.

    Up to `trials` independent starts; they end early once one reaches `tolerance`. The best iterate
    of all is chosen by the objective alone. `precision` is that of the adversary's own copy of the
    model. Satisfies the Attack protocol.
    """

    objective: Term
    parametrization: Direct = field(default_factory=Direct)
    labels: Labels
    descent: Descent
    trials: int = 1
    tolerance: float = 0.0
    precision: Literal["observed", "double"] = "observed"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def inapplicable(self, observation: Observation) -> str | None:
        return self.objective.inapplicable(observation) or self.labels.inapplicable(observation)

    def evaluations(self, observation: Observation) -> int:
        return self.trials * self.descent.evaluations

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        observation.require(self)
        clock = time.perf_counter()
        seen = in_double(observation) if self.precision == "double" else observation
        run = _Run(self, seen, progress)
        with seeds.isolated("simulation"):
            for trial in range(self.trials):
                run.descend(trial, seeds.child(f"trial/{trial}"))
                if run.best.value <= self.tolerance:
                    break
            progress(1.0)
            found = run.finish(seconds=time.perf_counter() - clock)
        # What the adversary's own copy computed in float64 is returned in the observed model's type.
        like = next(iter(observation.update.tensors.values()))
        return replace(
            found,
            inputs=found.inputs.to(like),
            course=tuple(replace(s, inputs=s.inputs.to(like)) for s in found.course),
        )


@dataclass
class _Best:
    """The lowest objective seen, and where."""

    value: float = math.inf
    trial: int = 0
    inputs: Tensor | None = None
    labels: Tensor | None = None


class _Run:
    """The state of one call: everything that a descent does not need to know."""

    def __init__(
        self, matching: GradientMatching, observation: Observation, progress: Progress
    ) -> None:
        self.matching, self.observation, self.progress = matching, observation, progress
        self.planned = matching.evaluations(observation)
        self.simulate = simulator(observation)
        self.observed: Tensors = observation.update.tensors
        self.best = _Best()
        self.objectives: list[float] = []
        self.courses: list[list[Snapshot]] = []
        self.evaluations = 0
        self.finite = True

    def descend(self, trial: int, seeds: Seeds) -> None:
        """One start, followed to its end."""
        matching = self.matching
        inputs = matching.parametrization.start(self.observation, seeds.generator("inputs"))
        labels = matching.labels.start(self.observation, seeds.generator("labels"))
        variables = [inputs.requires_grad_()]
        if matching.labels.free:
            variables.append(labels.requires_grad_())
        self.objectives.append(math.inf)
        self.courses.append([])
        matching.descent.run(
            lambda progress: self.evaluate(trial, inputs, labels, progress),
            variables,
            project=lambda: matching.parametrization.project(inputs),
            tolerance=matching.tolerance,
        )

    def evaluate(self, trial: int, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The objective here, with its graph; remembers the best iterate and the course."""
        unit = self.matching.parametrization.decode(inputs)
        targets = self.matching.labels.decode(labels)
        simulated = self.simulate(unit, targets, create_graph=True)
        value = self.matching.objective(
            Candidate(unit, targets, simulated, self.observed, progress)
        )
        number = float(value.detach())
        self.evaluations += 1
        self.finite = self.finite and math.isfinite(number)
        self.objectives[trial] = min(self.objectives[trial], number)
        if number < self.best.value:
            self.best = _Best(number, trial, inputs.detach().clone(), labels.detach().clone())
        self.remember(trial, number, unit)
        self.progress(min(1.0, self.evaluations / self.planned))
        return value

    def remember(self, trial: int, value: float, unit: Tensor) -> None:
        """Keep iterates 1, 2, 4, 8, ... at about four a doubling: enough for any strip, few to hold."""
        course = self.courses[trial]
        done = self.evaluations - 1
        if not course or done >= max(course[-1].evaluations * 1.2, course[-1].evaluations + 1):
            inputs = self.observation.domain.from_unit(unit.detach().clone())
            course.append(Snapshot(done, value, inputs))

    def finish(self, *, seconds: float) -> Reconstruction:
        """The reconstruction at the best iterate, with a status that says how far the update was matched."""
        matching, best, batch = self.matching, self.best, self.observation.batch_size
        cost = Cost(self.evaluations, seconds)
        if best.inputs is None or best.labels is None:
            return nothing_found(
                self.observation,
                Status.DIVERGED,
                "the objective was not finite at any iterate: lower lr or use a line search",
                cost=cost,
            )
        unit = matching.parametrization.decode(best.inputs)
        targets = matching.labels.decode(best.labels)
        residual = float(
            relative_residual(self.simulate(unit, targets, create_graph=False), self.observed)
        )
        inputs = self.observation.domain.from_unit(unit).detach()
        course = [*self.courses[best.trial], Snapshot(self.evaluations, best.value, inputs)]
        status, message = self.verdict(residual)
        soft = targets.ndim == 2 and self.observation.classes is not None
        return Reconstruction(
            inputs=inputs,
            targets=targets.argmax(-1) if soft else targets.detach(),
            found=torch.ones(batch, dtype=torch.bool),
            status=status,
            message=message,
            residual=residual,
            objectives=tuple(self.objectives),
            trial=best.trial,
            course=tuple(course),
            cost=cost,
        )

    def verdict(self, residual: float) -> tuple[Status, str]:
        """The status, and for all but success a remedy."""
        share = f"the update is matched to {residual:.2g} of its norm"
        if residual <= MATCHED:
            return Status.CONVERGED, share
        if not self.finite:
            return (
                Status.DIVERGED,
                f"{share}, then left finite numbers: lower lr, or use a line search",
            )
        return (
            Status.UNCONVERGED,
            f"{share}: more steps, more trials or another attack may go further",
        )


def nothing_found(
    observation: Observation, status: Status, message: str, *, cost: Cost | None = None
) -> Reconstruction:
    """A reconstruction without a guess: every example is the middle of the domain."""
    like = next(iter(observation.update.tensors.values()))
    batch = observation.knowledge.batch_size or 1
    middle = torch.full((batch, *observation.domain.shape), 0.5).to(like)
    return Reconstruction(
        inputs=observation.domain.from_unit(middle),
        targets=None,
        found=torch.zeros(batch, dtype=torch.bool),
        status=status,
        message=message,
        cost=cost or Cost(),
    )
