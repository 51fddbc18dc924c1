"""Descents: how the variables move. They see values and gradients of an objective, nothing else.

A descent is a generator: it yields the variables whose value and gradient it wants to know, and is
sent them. So the engine may evaluate many restarts at once, and end those without hope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from leakgauge.core import Observation
from leakgauge.inversion.evaluation.problem import Variables

if TYPE_CHECKING:
    from leakgauge.inversion.evaluation.problem import Problem


class Request(NamedTuple):
    """Where a descent wants to know the objective, and its share of the steps done, in [0, 1)."""

    variables: Variables
    progress: float


class Evaluation(NamedTuple):
    """The objective there, and its gradient."""

    value: float
    gradient: Variables


@dataclass(frozen=True)
class Identification:
    """How many directions of the unknowns the update tells apart: the rank of its Jacobian, or a bound where not exact.

    condition is the ratio of the largest to the least of the singular values counted.
    """

    rank: int
    unknowns: int
    condition: float | None
    exact: bool


@dataclass(frozen=True)
class Ending:
    """What a descent has to say of its end: lines for the record, and what the Jacobian says of the batch."""

    notes: tuple[str, ...] = ()
    identification: Identification | None = None


Run = Generator[Request, Evaluation, Ending]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What holds for a whole run: the box (in place), the objective at which to stop, and the problem itself.

    Only second-order descents look at the problem: for its residuals.
    """

    project: Callable[[Variables], None]
    tolerance: float
    problem: Problem | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)


class Descent(Protocol):
    """A rule that lowers an objective."""

    @property
    def evaluations(self) -> int:
        """The planned evaluations of the objective in one run: progress and halving count by them."""
        ...

    @property
    def bound(self) -> int:
        """The most evaluations in one run: more than planned if a line search may end after the plan does."""
        ...

    def inapplicable(self, observation: Observation) -> str | None:
        """Why this rule cannot lower an objective on this observation; None where it can."""
        ...

    def run(self, start: Variables, setting: Setting) -> Run:
        """Move from `start` until the objective is at most the tolerance, is not finite, or the budget ends."""
        ...


def over(value: float, setting: Setting) -> bool:
    """Whether there is nothing more to do at this value."""
    return not math.isfinite(value) or value <= setting.tolerance


class FixedSteps:
    """Base of descents that evaluate the objective once in each of `steps` steps, on any observation."""

    steps: int

    @property
    def evaluations(self) -> int:
        return self.steps

    @property
    def bound(self) -> int:
        return self.steps

    def inapplicable(self, observation: Observation) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class SignedAdam(FixedSteps):
    """Adam on the sign of the gradient, the rate cut tenfold at 3/8, 5/8 and 7/8 of the steps (Geiping et al. 2020)."""

    steps: int = 24_000
    lr: float = 0.1

    def run(self, start: Variables, setting: Setting) -> Run:
        variables = [v.detach().clone().requires_grad_() for v in start]
        optimizer = torch.optim.Adam(variables, lr=self.lr)
        milestones = [self.steps * k // 8 for k in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        for step in range(self.steps):
            seen = yield Request(tuple(v.detach().clone() for v in variables), step / self.steps)
            if over(seen.value, setting):
                break
            for variable, gradient in zip(variables, seen.gradient, strict=True):
                variable.grad = gradient.sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                setting.project(tuple(variables))
        return Ending()


def flatten(variables: Variables) -> Tensor:
    """All variables as one vector."""
    return torch.cat([v.reshape(-1) for v in variables])


def unflatten(vector: Tensor, like: Variables) -> Variables:
    """The inverse of `flatten`, in the shapes of `like`."""
    pieces = torch.split(vector, [v.numel() for v in like])
    return tuple(piece.reshape(v.shape) for piece, v in zip(pieces, like, strict=True))
