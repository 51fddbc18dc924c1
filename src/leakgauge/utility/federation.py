"""Federated training with a defense: what accuracy it leaves, what it sends, what it takes.

McMahan et al. 2017, algorithm 1, every client in every round.
"""

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
"""Test examples that are evaluated at once."""


@dataclass(frozen=True)
class History:
    """One training run: accuracy in [0, 1] before the first and after each round; of each round, the bytes that all
    clients sent and the seconds that they and the server took; and the server's model at the end. A run that
    `diverged` ends with the round before: after it an update was not finite."""

    accuracy: tuple[float, ...]
    sent: tuple[int, ...]
    seconds: tuple[float, ...]
    sizes: tuple[int, ...]
    diverged: bool
    model: nn.Module = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Several clients, their labels unlike (`alpha`, see `label_skew`), for so many rounds.

    Under a defense that keeps parameters local, each client has its own, from round to round: those it starts with
    are the model's, and the server never moves them. Accuracy is then the mean of the clients', each on all of `test`.

    `examples`: how many a client trains on in a round, drawn from its own; all of them where None. What they
    share is a gradient or a weight difference, as their training has it; the server moves by the mean, weighted by
    their examples, times `server_lr`.
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
        """Train `client`'s model, under its defense, on `data`, shared out among clients like it; `test` only measures.

        Raises DataError where examples do not suffice for all, and in the first round what a client's `share` raises.
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
                shared = shares(client, own, batches, memories, each)
            except UpdateError:
                if number == 0:  # not the training's doing
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
        """What each client trains on in one round."""
        return [self.drawn(data, part, seeds.child(f"client/{i}")) for i, part in enumerate(parts)]

    def drawn(self, data: Dataset, part: Tensor, seeds: Seeds) -> Batch:
        """What one does, of its examples."""
        if self.examples is not None and self.examples < len(part):
            order = torch.randperm(len(part), generator=seeds.generator("examples"))
            part = part[order[: self.examples]]
        return Batch(data.inputs[part], data.targets[part])


def shares(
    client: Client,
    models: Sequence[nn.Module],
    batches: Sequence[Batch],
    memories: Sequence[Tensors],
    seeds: Seeds,
) -> list[tuple[Update, Tensors]]:
    """What each client sends in one round, and what it carries to the next."""
    each = enumerate(zip(models, batches, memories, strict=True))
    return [
        client.continued(model, batch, memory, seeds=seeds.child(f"client/{i}"))
        for i, (model, batch, memory) in each
    ]


def step(model: nn.Module, mean: Update, rate: float, names: Collection[str]) -> None:
    """The server's: along a weight difference, against a gradient. Moves the parameters of these names."""
    sign = rate if mean.kind == "delta" else -rate
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if name in names:
                parameter += sign * mean.tensors[name].to(parameter)


def mean_accuracy(models: Sequence[nn.Module], test: Dataset) -> float:
    """The mean of each one's; of one model that all clients have, its own."""
    distinct = list(dict.fromkeys(models))
    return sum(accuracy_of(model, test) for model in distinct) / len(distinct)


def accuracy_of(model: nn.Module, test: Dataset) -> float:
    """Share of the examples whose class has the largest output, in eval mode; the model is left as it was."""
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
