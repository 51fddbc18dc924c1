"""Aggregation: what leaves a group of clients instead of each one's update.

A sum is sum_u x_u; a weighted mean is sum_u n_u x_u / sum_u n_u with n_u the number of client u's
examples (McMahan et al. 2017, algorithm 1). Nothing aggregated is the threat model `Server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from leakgauge.core import Seeds, Update, UpdateError


@runtime_checkable
class Aggregation(Protocol):
    """Several clients' updates in, the one that leaves the group out."""

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """`counts` holds how many examples each client trained on. Raises UpdateError where they do not fit."""
        ...


@runtime_checkable
class Concealing(Aggregation, Protocol):
    """An aggregation of which the server sees each client's message, but cannot read it."""

    def concealed(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """(d,) numbers in [-1, 1], float64: what the first of `clients` clients alike sends of d entries."""
        ...


@dataclass(frozen=True)
class Sum:
    """sum_u x_u, whatever the counts."""

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        check_alike(updates, counts)
        return combined(updates, [1.0] * len(updates))


@dataclass(frozen=True)
class WeightedMean:
    """sum_u n_u x_u / sum_u n_u: for one gradient step, the gradient of all clients' examples as one batch."""

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        check_alike(updates, counts)
        total = sum(counts)
        return combined(updates, [count / total for count in counts])


def combined(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """sum_u w_u x_u, added up in float64 and returned in the updates' own type."""
    first = updates[0]
    tensors = {}
    for name, like in first.tensors.items():
        parts = zip(updates, weights, strict=True)
        total = sum(weight * update.tensors[name].detach().double() for update, weight in parts)
        tensors[name] = total.to(like.dtype)  # type: ignore[union-attr]
    return Update(tensors, first.kind)


def check_alike(updates: Sequence[Update], counts: Sequence[int]) -> None:
    """Raise UpdateError unless updates are of one kind, with tensors alike, and each has a count from 1."""
    if len(updates) != len(counts) or not updates or min(counts) < 1:
        raise UpdateError(
            "aggregation",
            expected="at least one update, and for each the number of its examples, from 1",
            found=f"{len(updates)} updates and the counts {list(counts)}",
            remedy="pass one count for each update",
        )
    kinds = sorted({update.kind for update in updates})
    if len(kinds) > 1:
        raise UpdateError(
            "aggregation",
            expected="updates of one kind",
            found=" and ".join(kinds),
            remedy="aggregate gradients with gradients, weight differences with weight differences",
        )
    for update in updates[1:]:
        update.check(updates[0].tensors)


__all__ = ["Aggregation", "Concealing", "Sum", "WeightedMean", "check_alike"]
