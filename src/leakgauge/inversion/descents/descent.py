"""Descents: rules that lower an objective. They use its values and gradients only.

A descent is a generator. It yields the variables at which it needs the value and the gradient, and
receives both. So a search can evaluate many restarts together, and drop those that fall behind.
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
    """A request for the objective's value and gradient.

    Args:
        variables: Where to evaluate the objective.
        progress: Fraction of the steps done, in [0, 1).
        slope: Whether the gradient is needed. Without it, the evaluation costs about a third, and the
            answer may have an empty gradient.
    """

    variables: Variables
    progress: float
    slope: bool = True


class Evaluation(NamedTuple):
    """The value of the objective at the requested variables, and its gradient."""

    value: float
    gradient: Variables


@dataclass(frozen=True)
class Identification:
    """The number of directions of the batch that change the update: the rank of its Jacobian.

    Args:
        rank: Number of directions, or an upper bound if not `exact`.
        unknowns: Number of values of the batch.
        condition: Ratio of the largest to the smallest of the counted singular values, or None if
            it is not known.
        exact: Whether the rank was counted.
    """

    rank: int
    unknowns: int
    condition: float | None
    exact: bool


@dataclass(frozen=True)
class Ending:
    """What a descent reports when it ends.

    Args:
        notes: Lines for the record.
        identification: What the Jacobian shows about the batch, or None if the descent did not
            compute it.
    """

    notes: tuple[str, ...] = ()
    identification: Identification | None = None


Run = Generator[Request, Evaluation, Ending]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The parts of one run of a descent that do not change.

    Args:
        project: Moves variables, in place, to the nearest allowed ones.
        tolerance: Value of the objective at which the descent stops.
        problem: The problem, which only second-order descents use: for its residuals.
        generator: Source of random numbers.
    """

    project: Callable[[Variables], None]
    tolerance: float
    problem: Problem | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)


class Descent(Protocol):
    """A rule that lowers an objective."""

    @property
    def evaluations(self) -> int:
        """Planned number of evaluations in one run. Progress and halving are fractions of it."""
        ...

    @property
    def bound(self) -> int:
        """Most evaluations in one run. It exceeds the plan if a line search may end after the plan does."""
        ...

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why this rule cannot lower an objective on this observation, or None if it can."""
        ...

    def run(self, start: Variables, setting: Setting) -> Run:
        """Move from `start` until the objective is at most the tolerance, is not finite, or the budget ends."""
        ...


def should_stop(value: float, setting: Setting) -> bool:
    """Return whether the descent ends at this value: it is not finite, or at most the tolerance."""
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
    """Adam on the sign of the gradient. The usual descent for cosine distances.

    The learning rate is divided by 10 after 3/8, 5/8 and 7/8 of the steps.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Step size of Adam, above 0, in units of the variables. The default is the paper's.

    References:
        Geiping, Bauermeister, Dröge, Moeller. Inverting Gradients: How Easy Is It to Break Privacy
        in Federated Learning? NeurIPS 2020. arXiv:2003.14053.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.inversion import Cosine, Direct, GradientMatching, Known, SignedAdam
        >>> matching = GradientMatching(
        ...     objective=Cosine(),
        ...     parametrization=Direct(center=0.5, spread=0.25, box=True),
        ...     labels=Known(),
        ...     descent=SignedAdam(steps=20),
        ... )
        >>> found = matching(lg.examples.observation(), seeds=lg.Seeds(0))
        >>> found.cost.evaluations
        20
    """

    steps: int = 24_000
    lr: float = 0.1

    def run(self, start: Variables, setting: Setting) -> Run:
        variables = [v.detach().clone().requires_grad_() for v in start]
        optimizer = torch.optim.Adam(variables, lr=self.lr)
        milestones = [self.steps * k // 8 for k in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        for step in range(self.steps):
            evaluation = yield Request(
                tuple(v.detach().clone() for v in variables), step / self.steps
            )
            if should_stop(evaluation.value, setting):
                break
            for variable, gradient in zip(variables, evaluation.gradient, strict=True):
                variable.grad = gradient.sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                setting.project(tuple(variables))
        return Ending()


def flatten(variables: Variables) -> Tensor:
    """Return all variables as one vector."""
    return torch.cat([v.reshape(-1) for v in variables])


def unflatten(vector: Tensor, like: Variables) -> Variables:
    """Return the variables of a vector, in the shapes of `like`: the inverse of `flatten`."""
    pieces = torch.split(vector, [v.numel() for v in like])
    return tuple(piece.reshape(v.shape) for piece, v in zip(pieces, like, strict=True))
