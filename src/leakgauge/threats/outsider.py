"""An adversary outside the federation, who holds the global models before and after a round."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from leakgauge.core import Observation, Seeds, Tensors, Update, trainable
from leakgauge.core.ranges import Positive
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.layers.statistics import normalizers
from leakgauge.federated.training.local_steps import moved
from leakgauge.threats.aggregator import Aggregator


@dataclass(frozen=True, kw_only=True)
class Outsider(Aggregator):
    """Sees successive global models, buffers included, and of the clients' updates their mean's effect alone.

    The update is the difference of the parameters of two models, in the precision in which those are
    kept: of gradients, the server's step of `rate` taken back. Models bear the clients' mean of running
    statistics; a model without BatchNorm in train mode tells none.
    """

    rate: Positive = 0.1
    statistics: bool = True

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `clients` clients train on `batch`, and return what the next global model shows."""
        seen = super().look(client, batch, seeds=seeds)
        scale = -self.rate if seen.update.kind == "gradient" else 1.0
        before = trainable(seen.model)
        after = trainable(moved(seen.model, seen.update.tensors, scale))
        told = {name: (after[name] - p).detach() / scale for name, p in before.items()}
        return replace(seen, update=Update(told, seen.update.kind))

    def told(
        self, client: Client, model: nn.Module, batch: Batch, *, seeds: Seeds
    ) -> Tensors | None:
        """The statistics that the next model bears, where it keeps any."""
        return client.statistics(model, batch, seeds=seeds) if normalizers(model) else None


__all__ = ["Outsider"]
