"""Second-order descent: L-BFGS, then L-BFGS preconditioned by the Gauss-Newton matrix."""

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
    should_stop,
    unflatten,
)
from leakgauge.inversion.descents.lbfgs import LONGEST, Memory, Point, advance
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.simulation.derivability import underivable
from leakgauge.inversion.simulation.simulator import in_precision


@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    r"""Second-order descent on the least-squares problem of gradient matching. Ours.

    .. math::

        \min_v \; \| r(v) \|^2, \qquad r = \left( W (g(v) - g^*), \; \text{residuals of the priors} \right)

    Here :math:`v` are the variables, :math:`g(v)` is the simulated gradient, :math:`g^*` the
    observed one, and :math:`W` the weights of the distance. First come `warm` stages of L-BFGS,
    which is cheap. Then come `stages` of L-BFGS preconditioned by the Gauss-Newton matrix
    :math:`2 J^\top J`, where :math:`J` is the Jacobian of :math:`r`. Schedules change from stage to
    stage.

    One matrix serves tens of steps, each of about the price of a gradient. It is computed in
    float32. Its errors cost steps, not digits: values and gradients keep the precision of the
    variables.

    A stage ends after its iterations, or when the last ones gained too little. That is less than 2%
    in 40 iterations of a first stage, or less than a third in 5 of a later one. The descent needs
    an update that is one gradient, and residuals of each term. It also reports the rank of
    :math:`J`: whether the update identifies the batch.

    Args:
        warm: Number of stages of plain L-BFGS, at least 0.
        warm_iterations: Most iterations of a stage of plain L-BFGS.
        stages: Number of preconditioned stages, at least 0.
        iterations: Most iterations of a preconditioned stage.
        dense: Most unknowns for which the matrix is computed. It takes 4 dense\ :sup:`2` bytes, and
            dense\ :sup:`2` operations for each residual. With more unknowns, all stages are plain,
            and the rank is a bound.
        history: Most pairs in the memory of plain L-BFGS.
        damping: First damping of the matrix, relative to the mean of its diagonal, above 0.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import BalancedL2, Direct, GaussNewton, GradientMatching, Known
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, 10))
        >>> matching = GradientMatching(
        ...     objective=BalancedL2(),
        ...     parametrization=Direct(center=0.5, spread=0.25),
        ...     labels=Known(),
        ...     descent=GaussNewton(warm=1, warm_iterations=20, stages=2),
        ...     precision="double",
        ... )
        >>> found = matching(lg.examples.observation(model=model), seeds=lg.Seeds(0))
        >>> found.status, found.diagnosis.verdict
        (<Status.CONVERGED: 'converged'>, 'recovered')
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
        """Evaluations after which no iteration begins. The last iteration may exceed it by its line search."""
        # Line searches take a quarter more evaluations than iterations. Each stage begins with one.
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
        return "second order needs local training whose update is one gradient: choose a first-order attack"

    def run(self, start: Variables, setting: Setting) -> Run:
        assert setting.problem is not None, (
            "a second-order descent needs the problem, for its residuals"
        )
        return (yield from _Descent(self, start, setting, setting.problem).run())


class Gain(NamedTuple):
    """The least gain with which a stage goes on.

    Args:
        fraction: Fraction of the objective that must be gained.
        within: Number of iterations in which it must be gained.
    """

    fraction: float
    within: int

    def missed(self, recent: deque[float]) -> bool:
        """Return whether the last iterations gained less, given the values of the objective."""
        return len(recent) > self.within and recent[-1] > recent[0] * (1 - self.fraction)


WARM, CURVED = Gain(0.02, within=40), Gain(1 / 3, within=5)
"""Least gains of plain and of preconditioned stages."""


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
        """Request the value and gradient at a vector, with the weights of the present stage."""
        self.left -= 1
        evaluation = yield Request(unflatten(vector.clone(), self.start), self.progress)
        return Point(vector, evaluation.value, flatten(evaluation.gradient))

    def run(self) -> Run:
        plan, vector = self.plan, flatten(self.start)
        memory = Memory(plan.history, vector)
        total = plan.warm + plan.stages
        for stage in range(total):
            self.progress = stage / total
            here = yield from self.ask(vector)
            if should_stop(here.value, self.setting):
                break
            if stage < plan.warm or vector.numel() > plan.dense:
                here = yield from self.follow(
                    here, memory.direction, memory, plan.warm_iterations, WARM
                )
            else:
                here = yield from self.run_curved_stage(here)
            vector = here.vector
            if should_stop(here.value, self.setting) or self.left <= 0:
                break
        return self.ending(vector)

    def ending(self, vector: Tensor) -> Ending:
        """Return what the Jacobian shows about the batch, and a note for the record."""
        if vector.numel() > self.plan.dense:
            here = tuple(v.float() for v in unflatten(vector, self.start))
            identification = bound_rank(self.single, here, self.single.weights(self.progress))
            return Ending(
                (f"second order: {vector.numel()} unknowns, L-BFGS alone",), identification
            )
        # The verdict needs the curvature, even if the batch was matched before any was computed.
        if self.last is None:
            self.last = self.curvature(vector)
        rows = f"{self.last.rows} residuals" + (", sketched" if self.last.sketched else "")
        note = f"Gauss-Newton: {vector.numel()} unknowns, {rows}, damping {self.last.damping:.0e}"
        return Ending((note,), self.last.identification(self.start[0].numel()))

    def run_curved_stage(self, here: Point) -> Generator[Request, Evaluation, Point]:
        """Run one stage, preconditioned by the curvature at its start."""
        self.last = None  # This frees the old matrix before the new one is computed.
        self.last = curvature = self.curvature(here.vector)
        if not curvature.finite:
            return here
        self.damping = curvature.factorize(self.damping)
        inverse = curvature.inverse(self.start)
        memory = Memory(self.plan.iterations, here.vector)
        along = partial(memory.preconditioned, inverse=inverse)
        return (yield from self.follow(here, along, memory, self.plan.iterations, CURVED))

    def curvature(self, vector: Tensor) -> Curvature:
        """Return the curvature at a vector, in float32, which costs half."""
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
        """Iterate until the stage ends."""
        recent = deque([here.value], maxlen=enough.within + 1)
        for _ in range(iterations):
            if self.left <= 0:
                break
            found = yield from advance(self.ask, here, memory, along, most=min(LONGEST, self.left))
            if found is None:
                break
            here = found
            recent.append(here.value)
            if should_stop(here.value, self.setting) or enough.missed(recent):
                break
        return here


def in_single(problem: Problem) -> Problem:
    """Return the problem with copies of the model and the update in float32."""
    fixed = problem.fixed
    if fixed is not None and fixed.is_floating_point():
        fixed = fixed.float()
    observation = in_precision(problem.observation, torch.float32)
    return replace(problem, observation=observation, fixed=fixed)
