"""Aggregation: a group of clients shares one combined update instead of each single update.

Without aggregation, the threat model is `Server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from leakgauge.core import Seeds, Update, UpdateError


@runtime_checkable
class Aggregation(Protocol):
    """A rule that combines the updates of several clients into one."""

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """Return the update that leaves the group.

        Args:
            updates: The update of each client.
            counts: The number of examples that each client trained on.
            seeds: Seeds of everything that the aggregation draws.

        Raises:
            UpdateError: The updates and counts do not fit together.
        """
        ...


@runtime_checkable
class Concealing(Aggregation, Protocol):
    """An aggregation in which the server receives a message of each client that it cannot read."""

    def conceal(self, update: Update, count: int, *, clients: int, seeds: Seeds) -> Tensor:
        """Return the message of the first of `clients` equal clients, as float64 numbers (d,) in [-1, 1].

        The update has d entries.
        """
        ...


@dataclass(frozen=True)
class Sum:
    r"""The sum of the updates of all clients.

    .. math::

        x = \sum_u x_u

    Here :math:`x_u` is the update of client :math:`u`. The numbers of examples do not matter.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.federated import Sum
        >>> updates = [lg.Update({"w": torch.tensor([x])}) for x in (1.0, 4.0)]
        >>> Sum()(updates, [2, 1], seeds=lg.Seeds(0)).tensors["w"]
        tensor([5.])
    """

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """Return the sum. Raise UpdateError if the updates and counts do not fit together."""
        check_compatible(updates, counts)
        return weighted_sum(updates, [1.0] * len(updates))


@dataclass(frozen=True)
class WeightedMean:
    r"""The mean of the updates of all clients, weighted by their numbers of examples.

    .. math::

        x = \frac{\sum_u n_u x_u}{\sum_u n_u}

    Here :math:`x_u` is the update of client :math:`u`, and :math:`n_u` its number of examples. If each
    client shares one gradient of a mean loss, the result is the gradient of one batch of all examples.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017, algorithm 1. arXiv:1602.05629.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.federated import WeightedMean
        >>> updates = [lg.Update({"w": torch.tensor([x])}) for x in (1.0, 4.0)]
        >>> WeightedMean()(updates, [2, 1], seeds=lg.Seeds(0)).tensors["w"]
        tensor([2.])
    """

    def __call__(self, updates: Sequence[Update], counts: Sequence[int], *, seeds: Seeds) -> Update:
        """Return the weighted mean. Raise UpdateError if the updates and counts do not fit together."""
        check_compatible(updates, counts)
        total = sum(counts)
        return weighted_sum(updates, [count / total for count in counts])


def weighted_sum(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """Return the sum of `weights[u] * updates[u]`. It is added in float64 and returned in the updates' type."""
    first = updates[0]
    tensors = {}
    for name, like in first.tensors.items():
        parts = zip(updates, weights, strict=True)
        total = sum(weight * update.tensors[name].detach().double() for update, weight in parts)
        tensors[name] = total.to(like.dtype)  # type: ignore[union-attr]
    return Update(tensors, first.kind)


def check_compatible(updates: Sequence[Update], counts: Sequence[int]) -> None:
    """Raise UpdateError unless the updates can be combined.

    They must be of one kind, with tensors of equal names and shapes. Each needs a count of at least 1.
    """
    if len(updates) != len(counts) or not updates or min(counts) < 1:
        raise UpdateError(
            "aggregation",
            expected="at least one update, and the number of examples of each, at least 1",
            found=f"{len(updates)} updates and the counts {list(counts)}",
            remedy="pass one count for each update",
        )
    kinds = sorted({update.kind for update in updates})
    if len(kinds) > 1:
        raise UpdateError(
            "aggregation",
            expected="updates of one kind",
            found=" and ".join(kinds),
            remedy="aggregate gradients only with gradients, and weight differences only with weight "
            "differences",
        )
    for update in updates[1:]:
        update.check(updates[0].tensors)


__all__ = ["Aggregation", "Concealing", "Sum", "WeightedMean", "check_compatible"]
