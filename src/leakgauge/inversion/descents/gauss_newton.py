"""Second-order descent on the least-squares problem that gradient matching is.

    minimize  || r(v) ||^2 ,   r = W (g(v) - g*) and the priors' residuals, of falling weight

First L-BFGS, which is cheap; then L-BFGS preconditioned by the Gauss-Newton matrix 2 J'J, computed in
float32 and refreshed a few times. One matrix serves tens of steps, each about the price of a gradient, and
errors of float32 in it cost steps, not digits: values and gradients keep the precision of the variables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from leakgauge.core import Observation, SingleGradient
from leakgauge.inversion.descents.curvature import Curvature, bound_rank
from leakgauge.inversion.descents.descent import (
    Ending,
    Evaluation,
    Request,
    Run,
    Setting,
    flatten,
    over,
    unflatten,
)
from leakgauge.inversion.descents.lbfgs import LONGEST, Memory, Point, advance
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.simulation.derivability import underivable
from leakgauge.inversion.simulation.simulator import in_precision


@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    """`warm` stages of L-BFGS, then `stages` of preconditioned L-BFGS; progress counts stages.

    A stage ends after its iterations, or where the last of them gained too little: 2% in 40 of the
    first kind, a third in 5 of the second. `dense`: the most unknowns of a matrix, which takes
    4 dense^2 bytes and dense^2 rows operations; with more, all stages are of the first kind, and the rank
    is a bound by counting.
    """

    warm: int = 7
    warm_iterations: int = 300
    stages: int = 6
    iterations: int = 15
    dense: int = 6144
    history: int = 300
    damping: float = 1e-7

    @property
    def budget(self) -> int:
        """Evaluations after which no iteration begins; the last may take its line search's more."""
        # Line searches take a quarter more evaluations than iterations, and each stage one to begin.
        searched = self.warm * self.warm_iterations + self.stages * self.iterations
        return searched * 5 // 4 + self.warm + self.stages

    @property
    def evaluations(self) -> int:
        return self.budget + LONGEST

    @property
    def bound(self) -> int:
        return self.evaluations

    def inapplicable(self, observation: Observation) -> str | None:
        if isinstance(observation.training, SingleGradient):
            return underivable(observation, observation.training)
        return "second order needs local training whose update is one gradient"

    def run(self, start: Variables, setting: Setting) -> Run:
        assert setting.problem is not None, "a second-order descent needs the problem's residuals"
        return (yield from _Descent(self, start, setting, setting.problem).run())


class Gain(NamedTuple):
    """The share of the objective that so many iterations must gain for a stage to go on."""

    fraction: float
    within: int

    def missed(self, recent: deque[float]) -> bool:
        """Whether the values of as many iterations gained less."""
        return len(recent) > self.within and recent[-1] > recent[0] * (1 - self.fraction)


WARM, CURVED = Gain(0.02, within=40), Gain(1 / 3, within=5)


class _Descent:
    """The state of one run."""

    def __init__(
        self, plan: GaussNewton, start: Variables, setting: Setting, problem: Problem
    ) -> None:
        self.plan, self.start, self.setting = plan, start, setting
        self.single = in_single(problem)
        self.progress = 0.0
        self.damping = plan.damping
        self.left = plan.budget
        self.last: Curvature | None = None

    def ask(self, vector: Tensor) -> Generator[Request, Evaluation, Point]:
        """Evaluate under the weights of the stage."""
        self.left -= 1
        seen = yield Request(unflatten(vector.clone(), self.start), self.progress)
        return Point(vector, seen.value, flatten(seen.gradient))

    def run(self) -> Run:
        plan, vector = self.plan, flatten(self.start)
        memory = Memory(plan.history, vector)
        total = plan.warm + plan.stages
        for stage in range(total):
            self.progress = stage / total
            here = yield from self.ask(vector)
            if over(here.value, self.setting):
                break
            if stage < plan.warm or vector.numel() > plan.dense:
                here = yield from self.follow(
                    here, memory.direction, memory, plan.warm_iterations, WARM
                )
            else:
                here = yield from self.curved(here)
            vector = here.vector
            if over(here.value, self.setting) or self.left <= 0:
                break
        return self.ending(vector)

    def ending(self, vector: Tensor) -> Ending:
        """What J says of the batch."""
        if vector.numel() > self.plan.dense:
            here = tuple(v.float() for v in unflatten(vector, self.start))
            seen = bound_rank(self.single, here, self.single.weights(self.progress))
            return Ending((f"second order: {vector.numel()} unknowns, L-BFGS alone",), seen)
        if self.last is None:  # solved before it was needed: the verdict needs it
            self.last = self.curvature(vector)
        rows = f"{self.last.rows} residuals" + (", sketched" if self.last.sketched else "")
        note = f"Gauss-Newton: {vector.numel()} unknowns, {rows}, damping {self.last.damping:.0e}"
        return Ending((note,), self.last.identification(self.start[0].numel()))

    def curved(self, here: Point) -> Generator[Request, Evaluation, Point]:
        """One stage with the curvature of where it begins."""
        self.last = None  # the old one makes room for the new
        self.last = curvature = self.curvature(here.vector)
        if not curvature.finite:
            return here
        self.damping = curvature.factorize(self.damping)
        inverse = curvature.inverse(self.start)
        memory = Memory(self.plan.iterations, here.vector)
        along = partial(memory.preconditioned, inverse=inverse)
        return (yield from self.follow(here, along, memory, self.plan.iterations, CURVED))

    def curvature(self, vector: Tensor) -> Curvature:
        """In float32, in which it costs half."""
        return Curvature(
            self.single,
            tuple(v.float() for v in unflatten(vector, self.start)),
            self.single.weights(self.progress),
            self.setting.generator,
        )

    def follow(
        self,
        here: Point,
        along: Callable[[Tensor], Tensor],
        memory: Memory,
        iterations: int,
        enough: Gain,
    ) -> Generator[Request, Evaluation, Point]:
        """Iterate until the stage is over."""
        recent = deque([here.value], maxlen=enough.within + 1)
        for _ in range(iterations):
            if self.left <= 0:
                break
            found = yield from advance(self.ask, here, memory, along, most=min(LONGEST, self.left))
            if found is None:
                break
            here = found
            recent.append(here.value)
            if over(here.value, self.setting) or enough.missed(recent):
                break
        return here


def in_single(problem: Problem) -> Problem:
    """The problem on a copy of model and update in float32."""
    fixed = problem.fixed
    if fixed is not None and fixed.is_floating_point():
        fixed = fixed.float()
    observation = in_precision(problem.observation, torch.float32)
    return replace(problem, observation=observation, fixed=fixed)
