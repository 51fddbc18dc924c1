"""The state of a search for images: the images so far, and who hears of them.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Tell(Protocol):
    """What receives the state of a search."""

    def __call__(self, done: float, unit: Tensor, objectives: Tensor, used: int) -> None:
        """Receive the fraction done, the images, their objectives, and the number of evaluations."""
        ...


@dataclass(frozen=True, eq=False)
class Images:
    """Images that have known activations.

    Args:
        unit: (B, C, ...), in unit coordinates.
        objectives: (B,), relative squared distance of the activations.
        evaluations: Number of evaluations of the whole batch.
    """

    unit: Tensor
    objectives: Tensor
    evaluations: int


@dataclass(frozen=True, eq=False)
class State:
    """The state of a search at the start of a round.

    Args:
        left: The examples (n,) that the round searches.
        unit: The best images so far `(B, C, ...)`.
        objectives: Their objectives (B,).
        spent: Number of evaluations.
        done: Fraction of the search that is done.
        share: Fraction that the round takes.
    """

    left: Tensor
    unit: Tensor
    objectives: Tensor
    spent: int
    done: float
    share: float

    def tell(
        self,
        receive: Callable[[float, Images], None],
        done: float,
        unit: Tensor,
        objectives: Tensor,
        used: int,
    ) -> None:
        """Tell the images of all examples, with the present ones of the round."""
        now, after = self.unit.clone(), self.objectives.clone()
        now[self.left], after[self.left] = unit.double(), objectives.double()
        receive(self.done + self.share * done, Images(now, after, self.spent + used))
