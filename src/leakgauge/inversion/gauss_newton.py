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

import torch
from torch import Tensor

from leakgauge.inversion.curvature import Curvature
from leakgauge.inversion.descent import (
    Ending,
    Evaluation,
    Request,
    Run,
    Setting,
    flatten,
    over,
    unflatten,
)
from leakgauge.inversion.lbfgs import Memory, Point, advance
from leakgauge.inversion.problem import Problem, Variables
from leakgauge.inversion.simulation import in_precision


@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    """`warm` stages of L-BFGS, then `stages` of preconditioned L-BFGS; progress counts stages.

    A stage ends after `iterations`, or where five of them gain less than a third. `dense`: the most
    coordinates of the matrix, which takes 4 dense^2 bytes; more unknowns than that are diagonal beyond
    the smoothest patterns of each example. Up to `diagnosed` unknowns the rank is counted at the end.
    """

    warm: int = 5
    warm_iterations: int = 80
    stages: int = 8
    iterations: int = 15
    dense: int = 6144
    diagnosed: int = 6144
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
        return self.budget + 20

    def run(self, start: Variables, setting: Setting) -> Run:
        assert setting.problem is not None, "a second-order descent needs the problem's residuals"
        return (yield from _Descent(self, start, setting, setting.problem).run())


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
            if stage < plan.warm:
                count = plan.warm_iterations
                here = yield from self.follow(here, memory, memory.direction, count, patient=True)
            else:
                here = yield from self.curved(here)
            vector = here.vector
            if over(here.value, self.setting) or self.left <= 0:
                break
        if self.last is None:  # solved before it was needed: the verdict needs it
            self.last = self.curvature(vector)
        seen = self.last.identification(self.start[0].numel(), plan.diagnosed)
        size = f"{len(self.last.matrix)} dense of {vector.numel()} unknowns"
        rows = f"{self.last.rows} residuals" + (", sketched" if self.last.sketched else "")
        note = f"Gauss-Newton: {size}, {rows}, damping {self.last.damping:.0e}"
        return Ending((note,), seen)

    def curved(self, here: Point) -> Generator[Request, Evaluation, Point]:
        """One stage with the curvature of where it begins."""
        self.last = None  # the old one makes room for the new
        self.last = curvature = self.curvature(here.vector)
        self.damping = curvature.factorize(self.damping)
        inverse = curvature.inverse(self.start)
        memory = Memory(self.plan.iterations, here.vector)
        return (
            yield from self.follow(
                here,
                memory,
                lambda gradient: memory.preconditioned(gradient, inverse),
                self.plan.iterations,
                patient=False,
            )
        )

    def curvature(self, vector: Tensor) -> Curvature:
        """In float32, in which it costs half."""
        return Curvature(
            self.single,
            tuple(v.float() for v in unflatten(vector, self.start)),
            self.single.weights(self.progress),
            kept=self.plan.dense // len(self.start[0]),
            generator=self.setting.generator,
        )

    def follow(
        self,
        here: Point,
        memory: Memory,
        along: Callable[[Tensor], Tensor],
        iterations: int,
        *,
        patient: bool,
    ) -> Generator[Request, Evaluation, Point]:
        """Iterate until the stage is over: at once where nothing is gained, unless `patient`."""
        recent = deque([here.value], maxlen=6)
        for _ in range(iterations):
            if self.left <= 0:
                break
            found = yield from advance(self.ask, here, memory, along, most=min(20, self.left))
            if found is None:
                break
            here = found
            recent.append(here.value)
            slow = not patient and len(recent) == 6 and recent[-1] > recent[0] * 2 / 3
            if slow or over(here.value, self.setting):
                break
        return here


def in_single(problem: Problem) -> Problem:
    """The problem on a copy of model and update in float32."""
    fixed = problem.fixed
    if fixed is not None and fixed.is_floating_point():
        fixed = fixed.float()
    observation = in_precision(problem.observation, torch.float32)
    return replace(problem, observation=observation, fixed=fixed)
