"""Objectives that add and scale: `Cosine() + 1e-2 * TotalVariation()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Observation, Tensors

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Candidate:
    """One restart's guess beside what it would have shared, and what was observed.

    unit (B, *shape) in unit coordinates; targets (B,) or (B, K); simulated and observed by parameter
    name. `which` of the batch's examples `unit` holds: all, but where a local term is asked of one.
    """

    unit: Tensor
    targets: Tensor
    simulated: Tensors
    observed: Tensors
    which: slice = field(default_factory=lambda: slice(None))


class Term:
    """A scalar of a candidate, to be minimized.

    `local` where it depends on each example, not on the update; `collective` where it depends on the examples
    of the batch together, not on the update.
    """

    local: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    @property
    def matches(self) -> bool:
        """Whether it looks at the update."""
        return not (self.local or self.collective)

    def __call__(self, candidate: Candidate) -> Tensor:
        """The value, a scalar that autograd can differentiate."""
        raise NotImplementedError

    def residuals(self, candidate: Candidate) -> Tensor | None:
        """A vector r with ||r||^2 equal to the value here, for second-order descent; None where there is none."""
        return None

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        """The weights, at this share of the steps done, and the terms that they multiply."""
        return ((1.0, self),)

    def inapplicable(self, observation: Observation) -> str | None:
        """Why the term means nothing on this observation, in one line; None where it does."""
        return None

    def __add__(self, other: Term) -> Term:
        return Sum(self, other)

    def __rmul__(self, weight: Weight) -> Term:
        return Scaled(weight, self)


class LeastSquares(Term):
    """A term that is a sum of squares: subclasses give the residuals."""

    def residuals(self, candidate: Candidate) -> Tensor:
        """The vector whose squared norm is the value."""
        raise NotImplementedError

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.residuals(candidate).square().sum()


@dataclass(frozen=True)
class Sum(Term):
    """The sum of two terms."""

    left: Term
    right: Term

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.left(candidate) + self.right(candidate)

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        return self.left.parts(progress) + self.right.parts(progress)

    def inapplicable(self, observation: Observation) -> str | None:
        return self.left.inapplicable(observation) or self.right.inapplicable(observation)

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"


@dataclass(frozen=True)
class Scaled(Term):
    """A term times a number, or times a function of progress."""

    weight: Weight
    term: Term

    def __call__(self, candidate: Candidate) -> Tensor:
        """The value at the end of the descent: a weight that follows progress is read at 1."""
        weight = self.weight(1.0) if callable(self.weight) else self.weight
        return weight * self.term(candidate)

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        weight = self.weight(progress) if callable(self.weight) else self.weight
        return tuple((weight * inner, term) for inner, term in self.term.parts(progress))

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)

    def __repr__(self) -> str:
        inner = repr(self.term)
        return f"{self.weight!r} * " + (
            f"({inner})" if isinstance(self.term, (Sum, Scaled)) else inner
        )


@dataclass(frozen=True)
class Logarithm(Term):
    """log(1 + term / floor), zero where the term is: priors beside it weigh against its relative change.

    Against log(D), a prior of weight w counts as one of weight w D against D. `floor` is the value that
    counts as none.
    """

    term: Term
    floor: float = 1e-7

    def __call__(self, candidate: Candidate) -> Tensor:
        # Rounding may leave a distance a little below zero.
        return (self.term(candidate).clamp_min(0) / self.floor).log1p()

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)


@dataclass(frozen=True)
class GeometricSchedule:
    """A weight that falls geometrically from `start` to `end` as progress goes from 0 to 1."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """The weight at this share of the steps done."""
        return float(self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True)
class StepSchedule:
    """A weight that is `before` up to the share `at` of the steps, and `after` from there on."""

    before: float
    after: float
    at: float

    def __call__(self, progress: float) -> float:
        """The weight at this share of the steps done."""
        return self.before if progress < self.at else self.after


@dataclass(frozen=True)
class Window(Term):
    """A term as it is from `start` to `stop` of its own progress, for one stage of several."""

    term: Term
    start: float
    stop: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """The value at the end of the stage."""
        parts = self.parts(1.0)
        return torch.stack([weight * term(candidate) for weight, term in parts]).sum()

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        return self.term.parts(self.start + (self.stop - self.start) * progress)

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)


def value_at_zero_update(objective: Term, observation: Observation) -> float:
    """What the objective's distances say of an update of zero: the scale on which it matches."""
    observed = observation.update.tensors
    nothing = {name: torch.zeros_like(tensor) for name, tensor in observed.items()}
    # Distances look at the updates alone.
    none = torch.zeros(0)
    candidate = Candidate(none, none, nothing, observed)
    parts = [(w, term) for w, term in objective.parts(1.0) if term.matches]
    return sum(weight * float(term(candidate)) for weight, term in parts)
