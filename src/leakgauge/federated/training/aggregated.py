"""The aggregate of several clients' local training as one forward operator: what an adversary behind it simulates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from leakgauge.core import LocalTraining, Seeds, Shuffled, Tensors
from leakgauge.federated.training.fedsgd import with_orders
from leakgauge.federated.training.wrapper import StepsWrapper, Task


@dataclass(frozen=True, kw_only=True)
class Aggregated(StepsWrapper):
    """The weighted mean of `clients` clients' updates, who hold parts of a batch as equal as can be, in its order.

    Each trains by `training`, or, once the orders are drawn, by its own of `each`.
    """

    clients: int
    each: tuple[LocalTraining, ...] = ()

    @property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """Those of each client in turn, where drawn."""
        shuffled = (t for t in self.each if isinstance(t, Shuffled))
        return tuple(order for training in shuffled for order in training.orders)

    def drawn(self, count: int, *, seeds: Seeds) -> Aggregated:
        """The same of `count` examples, each client's orders drawn."""
        each = tuple(
            with_orders(self.training, size, seeds=seeds.child(f"client/{i}"))
            for i, size in enumerate(self.sizes(count))
        )
        return replace(self, each=each)

    def sizes(self, count: int) -> list[int]:
        """How many of `count` examples each client holds."""
        return [len(part) for part in torch.arange(count).tensor_split(self.clients)]

    def whole(self, count: int) -> bool:
        """Whether it does not matter which example is whose, nor when it is seen."""
        return max(self.sizes(count)) == 1

    def update(self, task: Task) -> Tensors:
        """Return the mean update by parameter name."""
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
