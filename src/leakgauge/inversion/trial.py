"""One start of a gradient matching attack, and what is remembered of its way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakgauge.core import Observation, Seeds, Snapshot
from leakgauge.inversion.descent import Ending, Evaluation, Request, Run, Setting
from leakgauge.inversion.problem import Problem, Variables

if TYPE_CHECKING:
    from leakgauge.inversion.engine import GradientMatching

RUNGS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of a descent after which successive halving drops the worse half (Jamieson, Talwalkar 2016)."""


def halved(trials: int, evaluations: int) -> int:
    """What successive halving spends on so many trials of so many evaluations each, at most."""
    spent, done = 0.0, 0.0
    for rung in RUNGS:
        spent += trials * (rung - done) * evaluations
        done, trials = rung, max(1, (trials + 1) // 2)
    return math.ceil(spent)


@dataclass
class _Best:
    """The lowest objective seen, and where."""

    value: float = math.inf
    variables: Variables | None = None


class Trial:
    """A descent under way: what it asks for next, the best that it saw, and its course."""

    def __init__(self, problem: Problem, start: Variables, run: Run) -> None:
        self.problem, self.run, self.clock = problem, run, time.perf_counter()
        self.best, self.course = _Best(), list[Snapshot]()
        self.evaluations, self.finite = 0, True
        self.weights: tuple[float, ...] = ()
        self.ending: Ending | None = None
        self.request: Request | None = None
        self._next(None)

    @classmethod
    def start(cls, matching: GradientMatching, observation: Observation, seeds: Seeds) -> Trial:
        """A trial at its first request; draws from `seeds` alone."""
        inputs = matching.parametrization.start(observation, seeds.generator("inputs"))
        labels = matching.labels.start(observation, seeds.generator("labels"))
        free = matching.labels.free
        problem = Problem(
            observation,
            matching.objective,
            matching.parametrization,
            matching.labels,
            fixed=None if free else labels,
        )
        start = (inputs, labels) if free else (inputs,)
        setting = Setting(
            project=lambda variables: matching.parametrization.project(variables[0]),
            tolerance=matching.tolerance,
            problem=problem,
            generator=seeds.generator("descent"),
        )
        return cls(problem, start, matching.descent.run(start, setting))

    def wants(self, until: float) -> bool:
        """Whether it asks for more, having spent fewer evaluations than that."""
        return self.request is not None and self.evaluations < until

    def weighs(self) -> tuple[float, ...]:
        """The weights of the objective that it asks for."""
        assert self.request is not None, "a trial that has ended asks for nothing"
        return self.problem.weights(self.request.progress)

    def tell(self, seen: Evaluation) -> None:
        """Answer the request: remember the iterate where it is the best, and ask for the next."""
        assert self.request is not None, "a trial that has ended asks for nothing"
        variables, progress = self.request
        self.evaluations += 1
        self.finite = self.finite and math.isfinite(seen.value)
        weights = self.problem.weights(progress)
        # Under other weights the objective is another: what was best before does not compare.
        if math.isfinite(seen.value) and (seen.value < self.best.value or weights != self.weights):
            self.best = _Best(seen.value, variables)
            self.weights = weights
        self._remember(variables, seen.value)
        self._next(seen)

    def _next(self, seen: Evaluation | None) -> None:
        try:
            self.request = next(self.run) if seen is None else self.run.send(seen)
        except StopIteration as end:
            self.request, self.ending = None, end.value

    def _remember(self, variables: Variables, value: float) -> None:
        """Keep iterates at about four a doubling of their number, and at each tenth of the objective."""
        done = self.evaluations - 1
        last, reached = -1, math.inf
        if self.course:
            last, reached = self.course[-1].evaluations, self.course[-1].objective
        if done >= max(last * 1.2, last + 1) or value < reached / 10:
            unit, _ = self.problem.decode(variables)
            inputs = self.problem.observation.domain.from_unit(unit.detach().clone())
            seconds = time.perf_counter() - self.clock
            self.course.append(Snapshot(done, value, inputs, seconds))
