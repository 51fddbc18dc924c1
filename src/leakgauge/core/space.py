"""Search spaces: relaxed variables in which an adversary searches, and the way back to examples.

Examples of several kinds are relaxed as follows:

- Values in a range (images, real columns): each value is its own variable in [0, 1]. See
  `Continuous`.
- Mixed columns (some are real, some hold integers or codes of categories): each value is its own
  variable in [0, 1]. `round` also moves each value of an integer column to the nearest whole
  number. See `MixedColumns` in `leakgauge.core.table`.
- Discrete values (tokens, categories without an order): one example of L integers in [0, V) becomes
  L rows of V weights. `relax` returns one-hot rows. `round` takes the largest weight of each row.
- Sequences of different lengths: all examples of a domain have the shape of the longest one. A
  discrete sequence has one more category, "no token", which pads shorter sequences. A sequence of
  real values has one more column, a mask. The mask is 1 inside the sequence and 0 after its end.
  `round` turns everything after the first end into padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leakgauge.core.errors import DataError


@runtime_checkable
class SearchSpace(Protocol):
    """The contract of search spaces: relaxed variables that stand for examples of a domain.

    Relaxed variables are real numbers, in [0, 1] for valid examples, even if examples are integers.
    They have the type of the model's weights. `to_inputs` turns them into model inputs. To probe a
    model, call it on `to_inputs(relaxed)` for any relaxed variables.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the relaxed variables of one example."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether `to_inputs` is differentiable. If not, attacks that need derivatives are inapplicable."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether some relaxed variables in [0, 1] are not valid examples. `round` moves those to valid ones."""
        ...

    def relax(self, examples: Tensor) -> Tensor:
        """Return the relaxed variables `(..., *shape)` of examples, or of values that `to_inputs` returned."""
        ...

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        """Return the model inputs for relaxed variables `(..., *shape)`."""
        ...

    def round(self, relaxed: Tensor) -> Tensor:
        """Return the nearest valid examples."""
        ...

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` random valid examples.

        The draw depends on public knowledge and on `generator` only.
        """
        ...


class Coordinates(Protocol):
    """A map of examples to unit coordinates of the same shape, and back."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return the unit coordinates of examples."""
        ...

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the examples at unit coordinates."""
        ...


@dataclass(frozen=True)
class Continuous:
    """The search space of examples for which every value in range is valid: their unit coordinates.

    Args:
        coordinates: The map to unit coordinates and back.
    """

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

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        return self.coordinates.from_unit(relaxed)

    def round(self, relaxed: Tensor) -> Tensor:
        return self.coordinates.from_unit(relaxed.clamp(0, 1))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return examples `(count, *shape)`, each value uniform in its range."""
        return self.coordinates.from_unit(torch.rand((count, *self.shape), generator=generator))


def check_real(inputs: Tensor, what: str) -> None:
    """Raise DataError unless inputs are real numbers.

    Integers, such as tokens, cannot be mixed or moved: there is no example between two of them.

    Args:
        inputs: The examples to check.
        what: The defense that mixes or moves the inputs, for the message.
    """
    if not inputs.is_floating_point():
        raise DataError(
            what,
            expected="examples of real numbers: whole numbers, such as tokens, cannot be mixed or moved",
            found=f"{inputs.dtype}",
            remedy="choose another defense for this data",
        )


class InSpace:
    """Base class of a domain with its own search space. Its unit coordinates are the relaxed variables."""

    @property
    def space(self) -> SearchSpace:
        """Search space of the examples. A subclass implements it."""
        raise NotImplementedError

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Return the relaxed variables of examples."""
        return self.space.relax(inputs)

    def from_unit(self, unit: Tensor) -> Tensor:
        """Return the model inputs for relaxed variables."""
        return self.space.to_inputs(unit)
