"""Further variables of each example, which any descent can move together with the inputs.

The adversary's own copy of the model takes *wide* examples: the n values of an input, then the m
further values. Nothing else in a search changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.core import Domain
from leakgauge.inversion.objectives.distances import Distance
from leakgauge.inversion.objectives.objective import Candidate, Term
from leakgauge.inversion.variables.parametrization import Parametrization


@dataclass(frozen=True)
class Layout:
    """The layout of wide examples: an input, then `extra` values.

    Args:
        inputs: Shape of an input.
    """

    inputs: tuple[int, ...]

    @property
    def extra(self) -> int:
        """Number of values beside the input."""
        raise NotImplementedError

    def input_of(self, wide: Tensor) -> Tensor:
        r"""Return the inputs (B, \*shape) within wide examples (B, n + m), as a view."""
        return torch.unflatten(wide[:, : math.prod(self.inputs)], 1, self.inputs)

    def rest_of(self, wide: Tensor) -> Tensor:
        """Return the further values (B, m) of wide examples, as a view."""
        return wide[:, math.prod(self.inputs) :]

    def joined(self, inputs: Tensor, rest: Tensor) -> Tensor:
        r"""Return wide examples of inputs (B, \*shape) and further values (B, m)."""
        return torch.cat([inputs.flatten(1), rest], dim=1)


@dataclass(frozen=True)
class WideDomain:
    """The domain of wide examples. Its maps to and from unit coordinates keep the further values unchanged."""

    base: Domain
    layout: Layout

    @property
    def kind(self) -> str:
        return self.base.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return (math.prod(self.layout.inputs) + self.layout.extra,)

    def to_unit(self, inputs: Tensor) -> Tensor:
        narrow = self.base.to_unit(self.layout.input_of(inputs))
        return self.layout.joined(narrow, self.layout.rest_of(inputs))

    def from_unit(self, unit: Tensor) -> Tensor:
        narrow = self.base.from_unit(self.layout.input_of(unit))
        return self.layout.joined(narrow, self.layout.rest_of(unit))


@dataclass(frozen=True, kw_only=True)
class Beside(Parametrization):
    """The variables of `base`, then the further values, unchanged.

    A subclass defines where the further values start and what bounds them.

    Args:
        base: The parametrization of the inputs.
        layout: The layout of wide examples.
    """

    base: Parametrization
    layout: Layout

    def decode(self, variables: Tensor) -> Tensor:
        inputs = self.base.decode(self.layout.input_of(variables))
        return self.layout.joined(inputs, self.layout.rest_of(variables))

    def encode(self, unit: Tensor) -> Tensor:
        inputs = self.base.encode(self.layout.input_of(unit))
        return self.layout.joined(inputs, self.layout.rest_of(unit))

    def project(self, variables: Tensor) -> None:
        self.base.project(self.layout.input_of(variables))


@dataclass(frozen=True)
class OfInputs(Term):
    """A term that is evaluated on the inputs within wide examples.

    Args:
        term: The term, which knows nothing of further values.
        layout: The layout of wide examples.
    """

    term: Term
    layout: Layout

    @property
    def local(self) -> bool:  # type: ignore[override]
        return self.term.local

    @property
    def collective(self) -> bool:  # type: ignore[override]
        return self.term.collective

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.term(replace(candidate, unit=self.layout.input_of(candidate.unit)))

    def residuals(self, candidate: Candidate) -> Tensor | None:
        return self.term.residuals(replace(candidate, unit=self.layout.input_of(candidate.unit)))

    def parts(self, progress: float) -> tuple[tuple[float, Term], ...]:
        # A distance uses the updates alone, and second-order descents recognize it by its type.
        return tuple(
            (weight, term if isinstance(term, Distance) else OfInputs(term, self.layout))
            for weight, term in self.term.parts(progress)
        )
