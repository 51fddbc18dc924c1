"""One restart of a gradient matching, and its trajectory."""

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
    """The lowest value of the objective so far, and its variables."""

    value: float = math.inf
    variables: Variables | None = None


class Restart:
    """A descent under way: its next request, the best iterate so far, and its trajectory.

    Args:
        problem: The problem.
        start: The variables at the start.
        run: The descent as a generator.
    """

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
        """Return whether the restart has a request and has spent fewer than `until` evaluations."""
        return self.request is not None and self.evaluations < until

    def term_weights(self) -> tuple[float, ...]:
        """Return the weights of the objective's terms at the present request."""
        assert self.request is not None, "a restart that has ended has no request"
        return self.problem.weights(self.request.progress)

    def receive(self, evaluation: Evaluation) -> None:
        """Answer the request: keep the iterate if it is the best, and get the next request."""
        assert self.request is not None, "a restart that has ended has no request"
        variables, progress = self.request.variables, self.request.progress
        # A value without a slope only compares moves, which leave the penalty out.
        if self.pull is not None and evaluation.gradient:
            evaluation = self.pull.add_to(evaluation, variables)
        self.evaluations += 1
        self.finite = self.finite and math.isfinite(evaluation.value)
        weights = (*self.problem.weights(progress), self.pull)
        # Other weights, or another consensus, make another objective. Its values cannot be compared
        # with the best value so far.
        if math.isfinite(evaluation.value) and (
            evaluation.value < self.best.value or weights != self.weights
        ):
            self.best = _Best(evaluation.value, variables)
            self.weights = weights
        self._remember(variables, evaluation.value)
        self._next(evaluation)

    def reconstruct(self) -> tuple[Tensor, Tensor]:
        r"""Return the present examples (B, \*shape) in unit coordinates, and their labels (B,)."""
        variables = self.best.variables if self.request is None else self.request.variables
        assert variables is not None, "a restart that has ended was evaluated at least once"
        unit, targets = self.problem.decode(variables)
        return unit.detach(), targets.argmax(-1) if targets.ndim == 2 else targets

    def conclude(self) -> None:
        """End at the best iterate, with the value of the objective alone, without any penalty of a group."""
        if self.best.variables is None:
            return
        self.request, self.pull = None, None
        self.best = _Best(self.value_alone(self.best.variables), self.best.variables)

    def adopt(self, unit: Tensor) -> bool:
        r"""Replace the best iterate by examples (B, \*shape) if the objective alone prefers them.

        Returns:
            Whether it was replaced.
        """
        assert self.best.variables is not None, (
            "a restart that has ended was evaluated at least once"
        )
        variables = (self.problem.parametrization.encode(unit), *self.best.variables[1:])
        value = self.value_alone(variables)
        if value < self.best.value:
            self.best = _Best(value, variables)
            return True
        return False

    def value_alone(self, variables: Variables, progress: float = 1.0) -> float:
        """Return the objective at a progress, the last one by default, without any penalty of a group."""
        problem = self.problem
        simulate = simulator(problem.observation, create_graph=False)
        return float(problem.value(variables, problem.weights(progress), simulate).detach())

    def _next(self, evaluation: Evaluation | None) -> None:
        """Send an evaluation to the descent, and keep its next request or its ending."""
        try:
            self.request = next(self.run) if evaluation is None else self.run.send(evaluation)
        except StopIteration as end:
            self.request, self.ending = None, end.value

    def _remember(self, variables: Variables, value: float) -> None:
        """Add the iterate to the trajectory if it is due.

        About four iterates are kept for each doubling of their number, and one whenever the
        objective falls to a tenth.
        """
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
    """Set the present consensus as the aim of each restart that still runs and is finite."""
    standing = [t for t in live if t.request is not None and t.reconstruct()[0].isfinite().all()]
    for restart, aim in zip(standing, _consensus_for(standing, group), strict=True):
        restart.pull = Pull(restart.problem.parametrization.decode, aim, group.weight)


def settle(restarts: list[Restart], live: list[Restart], group: Consensus) -> str:
    """Score the restarts and their consensus by the objective alone. Return a note that says which won."""
    for restart in restarts:
        restart.conclude()
    live = [restart for restart in live if restart.best.variables is not None]
    if not live:
        return ""
    best = min(live, key=lambda restart: restart.best.value)
    adopted = best.adopt(_consensus_for(live, group)[live.index(best)])
    chosen = "their consensus" if adopted else "one of them"
    return f"group: of {len(live)} restarts, {chosen} matches best"


def _consensus_for(live: list[Restart], group: Consensus) -> list[Tensor]:
    """Return the consensus, in the order of each restart's examples."""
    if not live:
        return []
    first = min(range(len(live)), key=lambda i: live[i].best.value)
    units, labels = zip(*(restart.reconstruct() for restart in live), strict=True)
    return group.aims(units, labels, first)
