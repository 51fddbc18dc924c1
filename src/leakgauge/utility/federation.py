"""Federated training under a defense, with a measurement of its accuracy, its traffic and its time."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from leakgauge.core import (
    Moment,
    Progress,
    Seeds,
    Tensors,
    Update,
    UpdateError,
    silent,
    trainable,
)
from leakgauge.core.ranges import Count, Positive
from leakgauge.data import Dataset
from leakgauge.federated import Batch, Client
from leakgauge.federated.aggregation.sums import WeightedMean
from leakgauge.federated.clients.client import kept_local
from leakgauge.federated.isolation.untouched import output_of
from leakgauge.utility.partition import label_skew
from leakgauge.utility.traffic import sent_bytes

CHUNK = 256
"""Number of test examples that are evaluated at once."""


@dataclass(frozen=True)
class History:
    """The record of one federated training run.

    Args:
        accuracy: Accuracy in [0, 1] before the first round, then after each round.
        sent: Bytes that all clients together sent, for each round.
        seconds: Time of all clients and the server, for each round, in seconds.
        sizes: Number of examples of each client.
        diverged: Whether an update after the first round was not finite. The run then ends with the
            last round before it.
        model: The server's model at the end.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> federation = lg.utility.Federation(clients=2, rounds=1)
        >>> history = federation.train(lg.examples.client(), data, data, seeds=lg.Seeds(0))
        >>> len(history.accuracy), sum(history.sizes), history.diverged
        (2, 1797, False)
    """

    accuracy: tuple[float, ...]
    sent: tuple[int, ...]
    seconds: tuple[float, ...]
    sizes: tuple[int, ...]
    diverged: bool
    model: nn.Module = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Federation:
    r"""Federated training of several clients, to measure what a defense costs.

    All clients take part in every round. The server moves its model by the weighted mean of their
    updates:

    .. math::

        w \leftarrow w + s \, \frac{\sum_u n_u \Delta_u}{\sum_u n_u}

    Here :math:`n_u` is the number of examples of client :math:`u` in the round, and :math:`s` is
    `server_lr`. :math:`\Delta_u` is its weight difference. If clients share gradients,
    :math:`\Delta_u` is the negative gradient.

    Under a defense that keeps parameters local, each client has its own values of these parameters.
    They start from the model's values, and the server never moves them. Accuracy is then the mean
    over clients, each measured on all test examples.

    Args:
        clients: Number of clients, at least 1.
        rounds: Number of rounds, at least 1.
        alpha: Evenness of the labels over clients, above 0. See `label_skew`.
        examples: Number of examples that a client draws from its own in a round. None is all.
        server_lr: Step size of the server, above 0. 1 averages the models of FedAvg.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017, algorithm 1. arXiv:1602.05629.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> client = lg.examples.client(training=lg.FedAvg(epochs=5, minibatch=16, learning_rate=0.1))
        >>> federation = lg.utility.Federation(clients=2, rounds=2, alpha=100.0)
        >>> history = federation.train(client, data, data, seeds=lg.Seeds(0))
        >>> history.accuracy[-1] > 0.8
        True
    """

    clients: Count = 5
    rounds: Count = 20
    alpha: Positive = 0.5
    examples: Count | None = None
    server_lr: Positive = 1.0

    def train(
        self,
        client: Client,
        data: Dataset,
        test: Dataset,
        *,
        seeds: Seeds,
        progress: Progress = silent,
    ) -> History:
        """Train a model under a defense, and return the history of the run.

        Args:
            client: The client that all clients copy, with its model, local training and defense.
            data: The training examples, which are divided among the clients.
            test: The examples on which accuracy is measured.
            seeds: Seeds of the partition, the batches and the clients.
            progress: A function that is called with a `Moment` after each round.

        Raises:
            DataError: The examples are too few for all clients.
            UpdateError: An update of the first round is not finite.
        """
        parts = label_skew(data.targets, self.clients, self.alpha, seeds=seeds)
        model = client.global_model(seeds=seeds)
        accuracy, sent, seconds = [accuracy_of(model, test)], list[int](), list[float]()
        shared_by_all = trainable(model).keys() - kept_local(client.defense, trainable(model))
        memories: list[Tensors] = [{} for _ in parts]
        own = [model] * len(parts)
        diverged = False
        for number in range(self.rounds):
            clock = time.perf_counter()
            each = seeds.child(f"round/{number}")
            batches = self.batches(data, parts, each)
            try:
                shared = share_all(client, own, batches, memories, each)
            except UpdateError:
                # A training can diverge only after a round. An error in the first round is a fault
                # of the model or the defense.
                if number == 0:
                    raise
                diverged = True
                break
            updates, memories = [one for one, _ in shared], [later for _, later in shared]
            mean = WeightedMean()(updates, [len(batch) for batch in batches], seeds=each)
            step(model, mean, self.server_lr, shared_by_all)
            own = [client.own_model(model, memory, rate=self.server_lr) for memory in memories]
            seconds.append(time.perf_counter() - clock)
            sent.append(sum(sent_bytes(update, client.defense) for update in updates))
            accuracy.append(mean_accuracy(own, test))
            progress(Moment((number + 1) / self.rounds))
        sizes = tuple(len(part) for part in parts)
        return History(tuple(accuracy), tuple(sent), tuple(seconds), sizes, diverged, model)

    def batches(self, data: Dataset, parts: Sequence[Tensor], seeds: Seeds) -> list[Batch]:
        """Return the batch of each client in one round."""
        return [
            self.draw_batch(data, part, seeds.child(f"client/{i}")) for i, part in enumerate(parts)
        ]

    def draw_batch(self, data: Dataset, part: Tensor, seeds: Seeds) -> Batch:
        """Return the batch of one client in one round. `part` holds the indices of its examples in `data`."""
        if self.examples is not None and self.examples < len(part):
            order = torch.randperm(len(part), generator=seeds.generator("examples"))
            part = part[order[: self.examples]]
        return Batch(data.inputs[part], data.targets[part])


def share_all(
    client: Client,
    models: Sequence[nn.Module],
    batches: Sequence[Batch],
    memories: Sequence[Tensors],
    seeds: Seeds,
) -> list[tuple[Update, Tensors]]:
    """Return the update of each client in one round, and its memory for the next round."""
    each = enumerate(zip(models, batches, memories, strict=True))
    return [
        client.share_and_remember(model, batch, memory, seeds=seeds.child(f"client/{i}"))
        for i, (model, batch, memory) in each
    ]


def step(model: nn.Module, mean: Update, rate: float, names: Collection[str]) -> None:
    """Move the server's parameters called `names` along a weight difference, or against a gradient."""
    sign = rate if mean.kind == "delta" else -rate
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if name in names:
                parameter += sign * mean.tensors[name].to(parameter)


def mean_accuracy(models: Sequence[nn.Module], test: Dataset) -> float:
    """Return the mean accuracy of the models. A model that several clients share counts once."""
    distinct = list(dict.fromkeys(models))
    return sum(accuracy_of(model, test) for model in distinct) / len(distinct)


def accuracy_of(model: nn.Module, test: Dataset) -> float:
    """Return the fraction of examples whose class has the largest output, in eval mode.

    The model does not change.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        hits = [
            output_of(model, inputs).argmax(1) == targets
            for inputs, targets in zip(
                torch.split(test.inputs, CHUNK), torch.split(test.targets, CHUNK), strict=True
            )
        ]
    for module, mode in modes.items():
        module.training = mode
    return float(torch.cat(hits).double().mean())
