"""Search spaces: relaxed variables in which an adversary searches for examples, and the way back to valid examples.

How examples of several kinds are relaxed:

- Values in a range (images, real columns): each value is its own variable in [0, 1]. See `Continuous`.
- Mixed columns (some real, some integer or codes of categories): as above, and `round` moves the integer columns to
  the nearest whole number. See `MixedColumns` in `leakgauge.core.table`.
- Discrete values (tokens, categories without an order): one example of L integers in [0, V) is L rows of V weights.
  `relax` returns one-hot rows, `round` the largest weight of each row.
- Sequences of different lengths: all examples of a domain have one shape, that of the longest. A discrete sequence
  has one more category, "no token", with which shorter ones are padded. A sequence of real values has one more
  column, a mask that is 1 inside and 0 behind the end. `round` makes everything behind the first end padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.core.errors import DataError


@runtime_checkable
class SearchSpace(Protocol):
    """Relaxed variables, real numbers in [0, 1] for valid examples, that stand for examples of a domain.

    They are real numbers whatever the type of the examples: they are made in the type of the model's own weights, and
    `given` makes of them what the model is given. A probe of a model is `given` of any relaxed variables.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the relaxed variables of one example."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether `given` can be differentiated. Attacks that follow derivatives are inapplicable otherwise."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether some relaxed variables in [0, 1] are no valid example, so that `round` moves them."""
        ...

    def relax(self, examples: Tensor) -> Tensor:
        """Return the relaxed variables (..., *shape) of examples, or of what `given` returned."""
        ...

    def given(self, relaxed: Tensor) -> Tensor:
        """Return what the model is given for relaxed variables (..., *shape)."""
        ...

    def round(self, relaxed: Tensor) -> Tensor:
        """Return the nearest valid examples."""
        ...

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` valid examples, drawn from `generator` alone. The draw is public knowledge."""
        ...


class Coordinates(Protocol):
    """A map of examples of one shape to unit coordinates of the same shape and back."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def to_unit(self, inputs: Tensor) -> Tensor: ...

    def from_unit(self, unit: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Continuous:
    """The search space of examples whose every value in range is valid: their unit coordinates."""

    coordinates: Coordinates

    @property
    def shape(self) -> tuple[int, ...]:
        return self.coordinates.shape

    @property
    def differentiable(self) -> bool:
        return True

    @property
    def discrete(self) -> bool:
        return False

    def relax(self, examples: Tensor) -> Tensor:
        return self.coordinates.to_unit(examples)

    def given(self, relaxed: Tensor) -> Tensor:
        return self.coordinates.from_unit(relaxed)

    def round(self, relaxed: Tensor) -> Tensor:
        return self.coordinates.from_unit(relaxed.clamp(0, 1))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return examples (count, *shape), each value uniform in its range."""
        return self.coordinates.from_unit(torch.rand((count, *self.shape), generator=generator))


def check_real(inputs: Tensor, what: str) -> None:
    """Raise DataError unless inputs are real numbers. Between integers, such as tokens, there are no examples.

    Args:
        what: what mixes or moves the inputs, for the message.
    """
    if not inputs.is_floating_point():
        raise DataError(
            what,
            expected="examples of real numbers",
            found=f"{inputs.dtype}",
            remedy="choose another defense for this data",
        )


class InSpace:
    """Base of a domain with a search space of its own. The space gives the domain's coordinates."""

    @property
    def space(self) -> SearchSpace:
        """The search space of the domain's examples."""
        raise NotImplementedError

    def to_unit(self, inputs: Tensor) -> Tensor:
        return self.space.relax(inputs)

    def from_unit(self, unit: Tensor) -> Tensor:
        return self.space.given(unit)
