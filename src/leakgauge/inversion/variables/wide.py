"""Further variables of each example, so that any descent can move them beside the inputs.

The adversary's own copy of the model takes *wide* examples: the n values of an input, then what else is searched. All
else of the engine stays as it is.
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
    """How wide examples are laid out: an input's shape, then `extra` values."""

    inputs: tuple[int, ...]

    @property
    def extra(self) -> int:
        """How many values there are beside the input's."""
        raise NotImplementedError

    def input_of(self, wide: Tensor) -> Tensor:
        """The inputs (B, *shape) within wide examples (B, n + m): a view."""
        return torch.unflatten(wide[:, : math.prod(self.inputs)], 1, self.inputs)

    def rest_of(self, wide: Tensor) -> Tensor:
        """What is beside them (B, m): a view."""
        return wide[:, math.prod(self.inputs) :]

    def joined(self, inputs: Tensor, rest: Tensor) -> Tensor:
        """Wide examples of inputs (B, *shape) and the rest (B, m)."""
        return torch.cat([inputs.flatten(1), rest], dim=1)


@dataclass(frozen=True)
class WideDomain:
    """The domain of wide examples; what is beside the inputs is its own unit coordinate."""

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
    """The variables of `base`, then the rest as it is. Subclasses say where that starts, and what bounds it."""

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
    """A term, written for examples as they are, on the inputs within wide ones."""

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
        # A distance looks at updates alone, and second-order descents know it by its type.
        return tuple(
            (weight, term if isinstance(term, Distance) else OfInputs(term, self.layout))
            for weight, term in self.term.parts(progress)
        )
