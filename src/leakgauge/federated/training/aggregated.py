"""The aggregate of several clients' local training as one forward operator: what an adversary behind it simulates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leakgauge.core import LocalSteps, LocalTraining, Loss, Seeds, Shuffled, Tensors, UpdateKind
from leakgauge.federated.training.fedsgd import local_update, with_orders


@dataclass(frozen=True, kw_only=True)
class Aggregated:
    """The weighted mean of `clients` clients' updates, who hold parts of a batch as equal as can be, in its order.

    Each trains by `training`, or, once the orders are drawn, by its own of `each`.
    """

    training: LocalTraining
    clients: int
    each: tuple[LocalTraining, ...] = ()

    @property
    def kind(self) -> UpdateKind:
        return self.training.kind

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

    @property
    def weight_decay(self) -> float:
        """That of each client's training."""
        return self.training.weight_decay if isinstance(self.training, LocalSteps) else 0.0

    def taken(self, count: int) -> int:
        """How many steps a client takes, at most."""
        inner = self.training
        return (
            max(inner.taken(n) for n in self.sizes(count)) if isinstance(inner, LocalSteps) else 1
        )

    def multiplier(self, count: int) -> float:
        """What the update of `count` examples is of a gradient that stays the same, but for the sign."""
        if not isinstance(self.training, LocalSteps):
            return 1.0
        sizes = self.sizes(count)
        return sum(size / count * self.training.multiplier(size) for size in sizes)

    def whole(self, count: int) -> bool:
        """Whether it does not matter which example is whose, nor when it is seen."""
        return max(self.sizes(count)) == 1

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        """The mean update by parameter name; inputs (B, *shape), targets (B,) or (B, K). Leaves the model as it was."""
        parts = zip(
            self.each or (self.training,) * self.clients,
            inputs.tensor_split(self.clients),
            targets.tensor_split(self.clients),
            strict=True,
        )
        total: Tensors = {}
        for training, x, y in parts:
            share = len(x) / len(inputs)
            update = local_update(training, model, loss, x, y, create_graph=create_graph)
            for name, t in update.items():
                total[name] = share * t if name not in total else total[name] + share * t
        return total
