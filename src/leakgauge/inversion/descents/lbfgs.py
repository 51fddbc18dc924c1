"""L-BFGS, with and without a line search.

Chapters, algorithms and equations without a name are those of Nocedal and Wright: Numerical
Optimization, chapters 3 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from leakgauge.core import Observation
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
from leakgauge.inversion.evaluation.problem import Variables

Inverse = Callable[[Tensor], Tensor]
"""An approximation of the inverse Hessian, applied to a vector."""


class Memory:
    r"""The last pairs of a step s and the gradient's change y, in the compact form of Byrd et al. (1994).

    The rows of S are the steps, and the rows of Y are the changes. Three matrix products replace
    the two loops over the pairs: with S, with Y, and back to the length of the gradient g. With a
    long history, the loops cost more than a gradient.

    Args:
        history: Most pairs that are kept.
        like: A vector of the variables' length, type and device.
    """

    def __init__(self, history: int, like: Tensor) -> None:
        self.history = history
        self.steps, self.changes = (like.new_zeros(history, len(like)) for _ in range(2))
        self.products, self.norms = (like.new_zeros(history, history) for _ in range(2))
        self.length = 0

    def add(self, step: Tensor, change: Tensor) -> None:
        """Keep a pair, unless its curvature is not positive beyond rounding."""
        curvature = float(step @ change)
        if curvature <= 1e-12 * float(step.norm() * change.norm()):
            return
        if self.length == self.history:
            self._forget(max(1, self.history // 8))
        k = self.length
        self.steps[k], self.changes[k] = step, change
        self.products[: k + 1, k] = self.steps[: k + 1] @ change
        row = self.changes[: k + 1] @ change
        self.norms[: k + 1, k] = row
        self.norms[k, : k + 1] = row
        self.length = k + 1

    def _forget(self, count: int) -> None:
        """Drop the oldest pairs, several at once: moving the others costs as much as a gradient."""
        left = self.length - count
        for rows in (self.steps, self.changes):
            rows[:left] = rows[count : self.length].clone()
        for square in (self.products, self.norms):
            square[:left, :left] = square[count : self.length, count : self.length].clone()
        self.length = left

    def clear(self) -> None:
        """Drop all pairs."""
        self.length = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Return `-H g`, with H = gamma I updated by the pairs (Byrd et al. 1994, equation 3.1)."""
        k = self.length
        if k == 0:
            return -gradient * min(1.0, 1 / float(gradient.abs().sum()))
        steps, changes = self.steps[:k], self.changes[:k]
        upper = self.products[:k, :k].triu()
        gamma = float(upper[-1, -1] / self.norms[k - 1, k - 1])
        inner = _solved(upper, steps @ gradient, upper=True)
        right = upper.diagonal() * inner + gamma * (self.norms[:k, :k] @ inner)
        right = right - gamma * (changes @ gradient)
        outer = _solved(upper.T, right, upper=False)
        return -(gamma * gradient + steps.T @ outer - gamma * (changes.T @ inner))

    def two_loops(self, gradient: Tensor) -> Tensor:
        """Return the vector of `direction`, by the textbook's recursion. It is slower, but more accurate in float32."""
        if self.length == 0:
            return self.direction(gradient)
        last = self.length - 1
        gamma = float(self.products[last, last] / self.norms[last, last])
        return self.preconditioned(gradient, lambda vector: gamma * vector)

    def preconditioned(self, gradient: Tensor, inverse: Inverse) -> Tensor:
        """Return `-H g`, with H = `inverse` updated by the pairs, oldest first (two loops, algorithm 7.4)."""
        rest, weights = gradient.clone(), []
        for k in reversed(range(self.length)):
            weights.append(float(self.steps[k] @ rest / self.products[k, k]))
            rest -= weights[-1] * self.changes[k]
        found = inverse(rest)
        for k, weight in zip(range(self.length), reversed(weights), strict=True):
            along = float(self.changes[k] @ found / self.products[k, k])
            found += (weight - along) * self.steps[k]
        return -found


class Point(NamedTuple):
    """A vector, with the value and the gradient of the objective at it."""

    vector: Tensor
    value: float
    gradient: Tensor


LONGEST = 20
"""Most evaluations of one line search."""

Ask = Callable[[Tensor], Generator[Request, Evaluation, Point]]
"""A function that evaluates the objective at a vector, by a request to the search."""


def line_search(
    ask: Ask, here: Point, direction: Tensor, *, first: float = 1.0, most: int = LONGEST
) -> Generator[Request, Evaluation, Point | None]:
    """Return a point that satisfies the strong Wolfe conditions with c1 = 1e-4 and c2 = 0.9.

    The search follows algorithms 3.5 and 3.6. Values that are not finite count as too high.

    Args:
        ask: Evaluates the objective at a vector.
        here: The point where the search begins.
        direction: The direction of the search.
        first: The first step, in units of the direction.
        most: Most evaluations.

    Returns:
        If `most` evaluations find no point of this kind, the lowest point found, or None if none is
        lower than `here`.
    """
    slope = float(here.gradient @ direction)
    low, low_value, low_slope, high = 0.0, here.value, slope, None
    best: Point | None = None
    step = first
    for _ in range(most):
        there = yield from ask(here.vector + step * direction)
        rise = float(there.gradient @ direction)
        ceiling = min(here.value + 1e-4 * step * slope, low_value if low > 0 else math.inf)
        if not math.isfinite(there.value) or there.value > ceiling:
            high, high_value = step, there.value
        else:
            if abs(rise) <= -0.9 * slope:
                return there
            if rise * ((math.inf if high is None else high) - low) >= 0:
                high, high_value = low, low_value
            low, low_value, low_slope, best = step, there.value, rise, there
        if high is None:
            step *= 2
        else:
            step = _between(low, low_value, low_slope, high, high_value)
    return best


def _between(low: float, value: float, slope: float, high: float, high_value: float) -> float:
    """Return the minimum of the parabola through both ends, at least a tenth of the interval away from them."""
    width = high - low
    bend = 2 * (high_value - value - slope * width) if math.isfinite(high_value) else math.inf
    fraction = -slope * width / bend if bend > 0 else 0.5
    return low + width * min(max(fraction, 0.1), 0.9)


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    r"""Limited-memory BFGS, the descent of DLG.

    Without a line search, each step has the length `lr`, as in most papers. It stalls or diverges
    where the curvature changes. With `line_search="strong_wolfe"`, each step lowers the objective,
    and may take several evaluations.

    Without a line search it follows `torch.optim.LBFGS` and keeps its absolute thresholds: pairs
    with :math:`y^\top s \le 10^{-10}` are dropped. Unlike `torch.optim.LBFGS`, it does not evaluate
    a point twice.

    Args:
        steps: Number of evaluations of the objective, at least 1.
        lr: Length of a step without a line search, above 0, as a multiple of the quasi-Newton step.
        history: Most pairs of steps and gradient changes in memory, at least 1.
        line_search: "none", or "strong_wolfe" for steps that satisfy the strong Wolfe conditions.

    References:
        Liu, Nocedal. On the Limited Memory BFGS Method for Large Scale Optimization. Mathematical
        Programming 45, 1989.

        Byrd, Nocedal, Schnabel. Representations of Quasi-Newton Matrices and Their Use in Limited
        Memory Methods. Mathematical Programming 63, 1994.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import L2, LBFGS, GradientMatching, Known
        >>> descent = LBFGS(steps=20, line_search="strong_wolfe")
        >>> matching = GradientMatching(objective=L2(), labels=Known(), descent=descent)
        >>> matching(lg.examples.observation(), seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: int = 6000
    lr: float = 1.0
    history: int = 100
    line_search: Literal["none", "strong_wolfe"] = "none"

    @property
    def evaluations(self) -> int:
        return self.steps

    @property
    def bound(self) -> int:
        """Most evaluations. If the last direction fails, the line search runs twice, each time with the whole rest."""
        if self.line_search == "none":
            return self.steps
        # The search runs twice only if the memory holds a pair: after the start and one iteration.
        return self.steps + max(0, min(LONGEST, self.steps - 2))

    def inapplicable(self, observation: Observation) -> str | None:
        return None

    def run(self, start: Variables, setting: Setting) -> Run:
        if self.line_search == "none":
            yield from self._plain(start, setting)
        else:
            yield from self._searched(start, setting)
        return Ending()

    def _plain(self, start: Variables, setting: Setting) -> Run:
        """Run without a line search."""
        x = flatten(start).clone()
        memory, before = Memory(self.history, x), None
        for step in range(self.steps):
            variables = unflatten(x.clone(), start)
            setting.project(variables)
            x = flatten(variables)
            evaluation = yield Request(variables, step / self.steps)
            gradient = flatten(evaluation.gradient)
            if should_stop(evaluation.value, setting) or float(gradient.abs().max()) <= 1e-7:
                break
            if before is not None:
                moved, change = x - before[0], gradient - before[1]
                if float(moved @ change) > 1e-10:
                    memory.add(moved, change)
            move = self.lr * memory.two_loops(gradient)
            if float(move @ gradient) > -1e-9 or float(move.abs().max()) <= 1e-9:
                break
            before = (x, gradient)
            x = x + move
        return Ending()

    def _searched(self, start: Variables, setting: Setting) -> Run:
        """Run with a line search."""
        left = self.steps

        def ask(vector: Tensor) -> Generator[Request, Evaluation, Point]:
            nonlocal left
            variables = unflatten(vector.clone(), start)
            evaluation = yield Request(variables, 1 - left / self.steps)
            left -= 1
            return Point(vector, evaluation.value, flatten(evaluation.gradient))

        here = yield from ask(flatten(start))
        memory = Memory(self.history, here.vector)
        while left > 0 and not should_stop(here.value, setting):
            most = min(LONGEST, left)
            found = yield from advance(ask, here, memory, memory.direction, most=most)
            if found is None:
                break
            here = found
        return Ending()


def advance(
    ask: Ask, here: Point, memory: Memory, along: Inverse, *, most: int
) -> Generator[Request, Evaluation, Point | None]:
    """Return the point after one iteration with line search, or None if no lower point was found.

    If the direction of the memory fails, the memory is emptied, and the iteration is tried once
    more.
    """
    for _ in range(2):
        direction = along(here.gradient)
        if float(direction @ here.gradient) < 0:
            found = yield from line_search(ask, here, direction, most=most)
            if found is not None:
                memory.add(found.vector - here.vector, found.gradient - here.gradient)
                return found
        if memory.length == 0:
            return None
        memory.clear()
    return None


def _solved(triangle: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    """Return x (k,) with triangle x = right. LAPACK has no half precision, so float32 is used for it."""
    wide = torch.promote_types(triangle.dtype, torch.float32)
    found = torch.linalg.solve_triangular(triangle.to(wide), right[:, None].to(wide), upper=upper)
    solved: Tensor = found[:, 0].to(right)
    return solved
