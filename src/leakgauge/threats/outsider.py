"""A threat model outside the federation: the adversary sees only global models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from leakgauge.core import Observation, Seeds, Tensors, Update, trainable
from leakgauge.core.ranges import Positive
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.layers.statistics import normalizers
from leakgauge.federated.training.local_steps import shift_model
from leakgauge.threats.aggregator import Aggregator


@dataclass(frozen=True, kw_only=True)
class Outsider(Aggregator):
    """An adversary outside the federation that sees the global models before and after a round.

    It stands for anyone who receives or downloads successive models, for example a later client. It
    sees the models' buffers, too. It does not see the clients' updates, but only the effect of
    their mean.

    The update is the difference of the two models' parameters, in the precision of the models. If
    clients share gradients, the difference is divided by the server's step size. Rounding of the
    parameters limits what the difference shows.

    Args:
        batch_size: Whether the adversary knows the number of examples B.
        labels: Whether it knows the labels, without their order in the batch.
        label_counts: Whether it knows the number of examples of each class.
        defense: Whether it knows the client's defense and its options. Only then can it be an
            adaptive adversary.
        order: Whether it knows the order in which the client visits its examples, epoch by epoch.
            Granted labels are then in the batch's order.
        hyperparameters: Whether it knows the number of local steps and their learning rates. If a
            client shares one gradient, the adversary always knows this.
        statistics: Whether it reads the running statistics of BatchNorm layers from the next model.
            A model without BatchNorm in train mode has none.
        clients: Number of clients, from 1 to 1024.
        rate: Step size of the server, above 0. It is used only if clients share gradients.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=4, threat=lg.Outsider(clients=2))
        >>> observation.clients, observation.update.kind
        (2, 'gradient')
    """

    rate: Positive = 0.1
    statistics: bool = True

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `clients` equal clients train on the batch, and return what the next global model shows."""
        seen = super().look(client, batch, seeds=seeds)
        scale = -self.rate if seen.update.kind == "gradient" else 1.0
        before = trainable(seen.model)
        after = trainable(shift_model(seen.model, seen.update.tensors, scale))
        difference = {name: (after[name] - p).detach() / scale for name, p in before.items()}
        return replace(seen, update=Update(difference, seen.update.kind))

    def reveal_statistics(
        self, client: Client, model: nn.Module, batch: Batch, *, seeds: Seeds
    ) -> Tensors | None:
        """Return the statistics in the next model, or None if it has none."""
        return client.statistics(model, batch, seeds=seeds) if normalizers(model) else None


__all__ = ["Outsider"]
