"""Objectives that add and scale: `Cosine() + 1e-2 * TotalVariation()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from leakgauge.core import Observation, Tensors

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Candidate:
    """One trial's guess beside what it would have shared, and what was observed.

    unit (B, *shape) in unit coordinates; targets (B,) or (B, K); simulated and observed by parameter
    name; progress in [0, 1], the share of the descent's steps done.
    """

    unit: Tensor
    targets: Tensor
    simulated: Tensors
    observed: Tensors
    progress: float


class Term:
    """A scalar of a candidate, to be minimized."""

    def __call__(self, candidate: Candidate) -> Tensor:
        """The value, a scalar that autograd can differentiate."""
        raise NotImplementedError

    def inapplicable(self, observation: Observation) -> str | None:
        """Why the term means nothing on this observation, in one line; None where it does."""
        return None

    def __add__(self, other: Term) -> Term:
        return Sum(self, other)

    def __rmul__(self, weight: Weight) -> Term:
        return Scaled(weight, self)


@dataclass(frozen=True)
class Sum(Term):
    """The sum of two terms."""

    left: Term
    right: Term

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.left(candidate) + self.right(candidate)

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
        weight = self.weight(candidate.progress) if callable(self.weight) else self.weight
        return weight * self.term(candidate)

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)

    def __repr__(self) -> str:
        inner = repr(self.term)
        return f"{self.weight!r} * " + (
            f"({inner})" if isinstance(self.term, (Sum, Scaled)) else inner
        )
