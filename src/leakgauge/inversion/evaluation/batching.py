"""Values and gradients of several restarts, computed together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from leakgauge.core import SingleGradient
from leakgauge.inversion.evaluation.compilation import Compiled, NotCompiled
from leakgauge.inversion.evaluation.cost import Work, choose_batched_path
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.evaluation.step import BuiltStep, choose


class Restarts(Protocol):
    """Values and gradients of S restarts."""

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        """Return values (S,) and gradients (S, ...), without a graph, of variables with a leading axis S."""
        ...


@dataclass(frozen=True)
class Loop:
    """One restart after the other.

    Args:
        step: The step of one restart.
        fixed: Labels (S, B) or (S, B, K) if the descent does not move them, else None.
    """

    step: BuiltStep
    fixed: Tensor | None

    def __call__(self, variables: Variables, progress: float) -> tuple[Tensor, Variables]:
        found = [
            self._at(s)(tuple(v[s] for v in variables), progress) for s in range(len(variables[0]))
        ]
        gradients = zip(*(gradient for _, gradient in found), strict=True)
        return torch.stack([value for value, _ in found]), tuple(map(torch.stack, gradients))

    def _at(self, restart: int) -> BuiltStep:
        """Return the step with this restart's labels."""
        fixed = None if self.fixed is None else self.fixed[restart]
        return replace(self.step, problem=replace(self.step.problem, fixed=fixed))


def batch_restarts(
    problem: Problem, fixed: Tensor | None, count: int, *, fuse: bool = False
) -> Compiled:
    """Return a step with the restarts as one more axis of each operator.

    Args:
        problem: The problem of one restart.
        fixed: Labels of each restart if the descent does not move them, else None.
        count: Number of restarts. The step takes exactly this number.
        fuse: Whether code is generated for the step.

    Raises:
        NotCompiled: The model cannot be traced or batched.
    """
    step = Compiled.of(_first(problem, fixed), fuse=fuse, restarts=count)
    return replace(step, problem=replace(problem, fixed=fixed))


def choose_restarts(
    problem: Problem, fixed: Tensor | None, count: int, planned: int
) -> tuple[Restarts, str]:
    """Return how to evaluate restarts, and a note for the record or "".

    There are `count` restarts with `planned` evaluations each. The choice follows from a count of
    operations, never from timing. If a model cannot be batched, the note says why.
    """
    first = _first(problem, fixed)
    training, refused = problem.observation.training, ""
    if count > 1 and isinstance(training, SingleGradient):
        path = choose_batched_path(Work.of(first, training), count, planned)
        try:
            if path is not None:
                return batch_restarts(problem, fixed, count, fuse=path.fuse), path.reason
        except NotCompiled as error:
            refused = f"restarts: one by one, since {error}"
    step, said = choose(first, count * planned)
    return Loop(step, fixed), "; ".join(line for line in (refused, said) if line)


def _first(problem: Problem, fixed: Tensor | None) -> Problem:
    """Return the problem of the first restart."""
    return replace(problem, fixed=None if fixed is None else fixed[0])
