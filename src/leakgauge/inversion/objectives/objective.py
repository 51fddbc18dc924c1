"""Terms of an objective, which add and scale: `Cosine() + 1e-2 * TotalVariation()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Observation, Tensors

Weight = float | Callable[[float], float]
"""A number, or a schedule: a function of progress, the fraction of the steps done, from 0 to 1."""


@dataclass(frozen=True)
class Candidate:
    r"""One candidate batch, its simulated update, and the observed update.

    A search builds candidates by itself. Build one to evaluate a term at a batch of your own.

    Args:
        unit: Examples (B, \*shape) in unit coordinates.
        targets: Labels (B,), or targets (B, K).
        simulated: The update that the candidate batch would have shared, by parameter name.
        observed: The observed update, by parameter name.
        which: Which of the batch's B examples `unit` holds. The default is all. It is one example
            only when a local term is evaluated on that example alone.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import L2, Candidate
        >>> candidate = Candidate(
        ...     unit=torch.zeros(1, 2),
        ...     targets=torch.zeros(1),
        ...     simulated={"weight": torch.tensor([3.0, 4.0])},
        ...     observed={"weight": torch.tensor([3.0, 0.0])},
        ... )
        >>> L2()(candidate)
        tensor(16.)
    """

    unit: Tensor
    targets: Tensor
    simulated: Tensors
    observed: Tensors
    which: slice = field(default_factory=lambda: slice(None))


class Term:
    """A scalar function of a candidate, to be minimized. Base class of distances and priors.

    Terms add, and a weight multiplies them from the left. A weight is a number, or a schedule: a
    function of progress, the fraction of the steps done, from 0 to 1.

    A subclass defines `__call__`. It sets the class attribute `local` if the value is a mean over
    examples that does not depend on the update. It sets `collective` if the value depends on all
    examples of the batch together, but not on the update. Any other term matches the update.

    Example:
        >>> from leakgauge.inversion import Cosine, GeometricSchedule, TotalVariation
        >>> objective = Cosine() + GeometricSchedule(1.0, 0.01) * TotalVariation()
        >>> [round(weight, 3) for weight, term in objective.parts(progress=0.5)]
        [1.0, 0.1]
    """

    local: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    @property
    def matches(self) -> bool:
        """Whether the term compares updates."""
        return not (self.local or self.collective)

    def __call__(self, candidate: Candidate) -> Tensor:
        """Return the value of the term, a scalar that autograd can differentiate."""
        raise NotImplementedError

    def residuals(self, candidate: Candidate) -> Tensor | None:
        """Return residuals `r` with `|r|^2` equal to the value, or None if the term has none.

        Second-order descents need residuals.
        """
        return None

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        """Return the terms of the sum, each with its weight at this progress, from 0 to 1."""
        return ((1.0, self),)

    def inapplicable(self, observation: Observation) -> str | None:
        """Return in one line why the term cannot be used on this observation, or None if it can."""
        return None

    def __add__(self, other: Term) -> Term:
        return Sum(self, other)

    def __rmul__(self, weight: Weight) -> Term:
        return Scaled(weight, self)


class LeastSquares(Term):
    r"""A term that is a sum of squares. Base class: a subclass defines the residuals.

    .. math::

        \mathrm{term}(x) = \| r(x) \|^2

    Second-order descents (`GaussNewton`) need the residuals.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, LeastSquares
        >>> class NearZero(LeastSquares):
        ...     local = True
        ...     def residuals(self, candidate: Candidate) -> torch.Tensor:
        ...         return candidate.unit.flatten()
        >>> NearZero()(Candidate(torch.full((1, 4), 0.5), torch.zeros(1), {}, {}))
        tensor(1.)
    """

    def residuals(self, candidate: Candidate) -> Tensor:
        """Return the vector whose squared norm is the value."""
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
    """A term times a number, or times a schedule."""

    weight: Weight
    term: Term

    def __call__(self, candidate: Candidate) -> Tensor:
        """Return the value at the end of the descent: a schedule is evaluated at progress 1."""
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
    r"""The logarithm of a term. A prior beside it weakens as the term falls.

    .. math::

        \log\left(1 + \frac{D(x)}{f}\right)

    Here :math:`D` is the term and :math:`f` is `floor`. The value is 0 where the term is 0. A prior
    of weight :math:`w` beside :math:`\log D` acts like a prior of weight :math:`w D` beside
    :math:`D`. So the prior weakens as the update is matched.

    Args:
        term: The term :math:`D`, at least 0.
        floor: Value of the term, above 0, that counts as a perfect match. The default is ours.

    Example:
        >>> from leakgauge.inversion import Cosine, Logarithm, TotalVariation
        >>> Logarithm(Cosine()) + 2.0 * TotalVariation()
        Logarithm(term=Cosine(), floor=1e-07) + 2.0 * TotalVariation()
    """

    term: Term
    floor: float = 1e-7

    def __call__(self, candidate: Candidate) -> Tensor:
        # Rounding errors may make a distance slightly negative.
        return (self.term(candidate).clamp_min(0) / self.floor).log1p()

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)


@dataclass(frozen=True)
class GeometricSchedule:
    r"""A weight that goes geometrically from `start` to `end` during a descent.

    .. math::

        w(p) = \mathrm{start} \cdot \left(\frac{\mathrm{end}}{\mathrm{start}}\right)^p

    Here :math:`p` is the progress: the fraction of the steps done, from 0 to 1. Use it for a prior
    that leads at first and must not bias the result at the end.

    Args:
        start: Weight at progress 0, above 0.
        end: Weight at progress 1, above 0.

    Example:
        >>> from leakgauge.inversion import GeometricSchedule
        >>> schedule = GeometricSchedule(start=1.0, end=0.01)
        >>> [round(schedule(progress), 4) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.1, 0.01]
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress, from 0 to 1."""
        return float(self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True)
class StepSchedule:
    """A weight that changes once during a descent.

    Args:
        before: Weight while the progress is below `at`.
        after: Weight from `at` on.
        at: Fraction of the steps, from 0 to 1, at which the weight changes.

    Example:
        >>> from leakgauge.inversion import StepSchedule
        >>> schedule = StepSchedule(before=0.0, after=0.1, at=0.5)
        >>> [schedule(progress) for progress in (0.0, 0.5, 1.0)]
        [0.0, 0.1, 0.1]
    """

    before: float
    after: float
    at: float

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress, from 0 to 1."""
        return self.before if progress < self.at else self.after


@dataclass(frozen=True)
class Window(Term):
    """A term whose schedules run from progress `start` to `stop` only.

    Use it when one search is split into several descents: each stage gets its own part of the
    schedules.

    Args:
        term: The term, with its schedules.
        start: Progress of the schedules when the stage begins, from 0 to 1.
        stop: Progress of the schedules when the stage ends, from `start` to 1.

    Example:
        >>> from leakgauge.inversion import GeometricSchedule, TotalVariation, Window
        >>> whole = GeometricSchedule(1.0, 0.01) * TotalVariation()
        >>> second_half = Window(whole, start=0.5, stop=1.0)
        >>> [round(second_half.parts(p)[0][0], 2) for p in (0.0, 1.0)]
        [0.1, 0.01]
    """

    term: Term
    start: float
    stop: float

    def __call__(self, candidate: Candidate) -> Tensor:
        """Return the value at the end of the stage."""
        parts = self.parts(1.0)
        return torch.stack([weight * term(candidate) for weight, term in parts]).sum()

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        return self.term.parts(self.start + (self.stop - self.start) * progress)

    def inapplicable(self, observation: Observation) -> str | None:
        return self.term.inapplicable(observation)


def value_at_zero_update(objective: Term, observation: Observation) -> float:
    """Return the value of the objective's distances when the simulated update is zero.

    It is the scale on which the objective measures the update.
    """
    observed = observation.update.tensors
    nothing = {name: torch.zeros_like(tensor) for name, tensor in observed.items()}
    # Distances use the updates alone, so the examples may be empty.
    none = torch.zeros(0)
    candidate = Candidate(none, none, nothing, observed)
    parts = [(w, term) for w, term in objective.parts(1.0) if term.matches]
    return sum(weight * float(term(candidate)) for weight, term in parts)
