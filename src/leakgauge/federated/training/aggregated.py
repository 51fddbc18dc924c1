"""The aggregate of several clients' local training as one forward operator, which an adversary simulates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from leakgauge.core import LocalTraining, Seeds, Shuffled, Tensors
from leakgauge.federated.training.fedsgd import with_orders
from leakgauge.federated.training.wrapper import StepsWrapper, Task


@dataclass(frozen=True, kw_only=True)
class Aggregated(StepsWrapper):
    """The weighted mean of the updates of several clients, which hold consecutive parts of one batch.

    The sizes of the parts differ by at most one example.

    Args:
        training: The local training of every client.
        clients: Number of clients.
        each: The local training of each client, with drawn orders. Empty if no orders are drawn
            yet.
    """

    clients: int
    each: tuple[LocalTraining, ...] = ()

    @property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """The orders of all clients, one client after the other. Empty if none are drawn."""
        shuffled = (t for t in self.each if isinstance(t, Shuffled))
        return tuple(order for training in shuffled for order in training.orders)

    def draw_orders(self, count: int, *, seeds: Seeds) -> Aggregated:
        """Return this training with drawn orders for each client, for `count` examples in total."""
        each = tuple(
            with_orders(self.training, size, seeds=seeds.child(f"client/{i}"))
            for i, size in enumerate(self.sizes(count))
        )
        return replace(self, each=each)

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples each client holds."""
        return [len(part) for part in torch.arange(count).tensor_split(self.clients)]

    def ignores_order(self, count: int) -> bool:
        """Return whether the update is the same for every order of the examples."""
        return max(self.sizes(count)) == 1

    def update(self, task: Task) -> Tensors:
        """Return the weighted mean update by parameter name."""
        parts = zip(
            self.each or (self.training,) * self.clients,
            task.inputs.tensor_split(self.clients),
            task.targets.tensor_split(self.clients),
            strict=True,
        )
        total: Tensors = {}
        for training, x, y in parts:
            fraction = len(x) / len(task.inputs)
            for name, t in task.by(training, inputs=x, targets=y).items():
                total[name] = fraction * t if name not in total else total[name] + fraction * t
        return total
