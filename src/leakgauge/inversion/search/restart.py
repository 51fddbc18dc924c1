"""One start of a gradient matching attack, and what is remembered of its way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from torch import Tensor

from leakgauge.core import Observation, Seeds, Snapshot
from leakgauge.inversion.descents.descent import Ending, Evaluation, Request, Run, Setting
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.search.composition import Composition
from leakgauge.inversion.search.consensus import Consensus, Pull
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.labels import ReadyLabels


@dataclass
class _Best:
    """The lowest objective seen, and where."""

    value: float = math.inf
    variables: Variables | None = None


class Restart:
    """A descent under way: what it asks for next, the best that it saw, and its trajectory."""

    def __init__(self, problem: Problem, start: Variables, run: Run) -> None:
        self.problem, self.run, self.clock = problem, run, time.perf_counter()
        self.best, self.trajectory = _Best(), list[Snapshot]()
        self.evaluations, self.finite = 0, True
        self.weights: tuple[object, ...] = ()
        self.pull: Pull | None = None
        self.ending: Ending | None = None
        self.request: Request | None = None
        self._next(None)

    @classmethod
    def start(
        cls, matching: Composition, rule: ReadyLabels, observation: Observation, seeds: Seeds
    ) -> Restart:
        """Return a restart at its first request. It draws from `seeds` alone."""
        inputs = matching.parametrization.start(observation, seeds.generator("inputs"))
        labels = rule.start(observation, seeds.generator("labels"))
        free = rule.free
        problem = Problem(
            observation,
            matching.objective,
            matching.parametrization,
            rule,
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
        assert self.request is not None, "a restart that has ended asks for nothing"
        return self.problem.weights(self.request.progress)

    def tell(self, seen: Evaluation) -> None:
        """Answer the request: remember the iterate where it is the best, and ask for the next."""
        assert self.request is not None, "a restart that has ended asks for nothing"
        variables, progress = self.request
        seen = seen if self.pull is None else self.pull.added(seen, variables)
        self.evaluations += 1
        self.finite = self.finite and math.isfinite(seen.value)
        weights = (*self.problem.weights(progress), self.pull)
        # Under other weights, or held to another consensus, the objective is another: what was best
        # before does not compare.
        if math.isfinite(seen.value) and (seen.value < self.best.value or weights != self.weights):
            self.best = _Best(seen.value, variables)
            self.weights = weights
        self._remember(variables, seen.value)
        self._next(seen)

    def guess(self) -> tuple[Tensor, Tensor]:
        """Where it stands: unit (B, *shape), and labels (B,)."""
        variables = self.best.variables if self.request is None else self.request.variables
        assert variables is not None, "a restart that has ended has been somewhere"
        unit, targets = self.problem.decode(variables)
        return unit.detach(), targets.argmax(-1) if targets.ndim == 2 else targets

    def rest(self) -> None:
        """End at the best iterate, its value that of the objective alone, whatever held the restart to others."""
        if self.best.variables is None:
            return
        self.request, self.pull = None, None
        self.best = _Best(self.alone(self.best.variables), self.best.variables)

    def adopt(self, unit: Tensor) -> bool:
        """Take a guess (B, *shape) for the best where the objective alone prefers it; whether it does."""
        assert self.best.variables is not None, "a restart that has ended has been somewhere"
        variables = (self.problem.parametrization.encode(unit), *self.best.variables[1:])
        value = self.alone(variables)
        if value < self.best.value:
            self.best = _Best(value, variables)
            return True
        return False

    def alone(self, variables: Variables) -> float:
        """The objective at its last weights, without any consensus."""
        problem = self.problem
        simulate = simulator(problem.observation, create_graph=False)
        return float(problem.value(variables, problem.weights(1.0), simulate).detach())

    def _next(self, seen: Evaluation | None) -> None:
        try:
            self.request = next(self.run) if seen is None else self.run.send(seen)
        except StopIteration as end:
            self.request, self.ending = None, end.value

    def _remember(self, variables: Variables, value: float) -> None:
        """Keep iterates at about four a doubling of their number, and at each tenth of the objective."""
        done = self.evaluations - 1
        last, reached = -1, math.inf
        if self.trajectory:
            last, reached = self.trajectory[-1].evaluations, self.trajectory[-1].objective
        if done >= max(last * 1.2, last + 1) or value < reached / 10:
            unit, _ = self.problem.decode(variables)
            inputs = self.problem.observation.domain.from_unit(unit.detach().clone())
            seconds = time.perf_counter() - self.clock
            self.trajectory.append(Snapshot(done, value, inputs, seconds))


def meet(live: list[Restart], group: Consensus) -> None:
    """Hold each restart that goes on, from now on, to the consensus of them all."""
    standing = [t for t in live if t.request is not None and t.guess()[0].isfinite().all()]
    for restart, aim in zip(standing, _aims(standing, group), strict=True):
        restart.pull = Pull(restart.problem.parametrization.decode, aim, group.weight)


def settle(restarts: list[Restart], live: list[Restart], group: Consensus) -> str:
    """Score restarts by the objective alone, and the consensus of the live beside them; a line that says which won."""
    for restart in restarts:
        restart.rest()
    live = [restart for restart in live if restart.best.variables is not None]
    if not live:
        return ""
    best = min(live, key=lambda restart: restart.best.value)
    adopted = best.adopt(_aims(live, group)[live.index(best)])
    chosen = "their consensus" if adopted else "one of them"
    return f"group: of {len(live)} restarts, {chosen} matches best"


def _aims(live: list[Restart], group: Consensus) -> list[Tensor]:
    """The consensus, in the order of each restart's examples."""
    if not live:
        return []
    first = min(range(len(live)), key=lambda i: live[i].best.value)
    units, labels = zip(*(restart.guess() for restart in live), strict=True)
    return group.aims(units, labels, first)
