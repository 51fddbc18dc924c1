"""Threat models: who attacks, and what they know. The only makers of an Observation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from leakgauge.core import (
    ChangedTraining,
    Knowledge,
    KnowledgeError,
    Observation,
    Seeds,
    Shuffled,
    SpecificationError,
    Tensors,
    effect,
    plain_update,
    trainable,
)
from leakgauge.core.ranges import check_fields
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.steadiness import Steadiness
from leakgauge.federated.isolation.auditable import check_finite
from leakgauge.federated.layers.statistics import check_normalizers
from leakgauge.federated.training.withheld import Withheld
from leakgauge.threats.handover import handed
from leakgauge.threats.inspection import SharedState, check_isolated


@runtime_checkable
class ThreatModel(Protocol):
    """Who attacks, and what they are granted. The only way from a client to an adversary."""

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted: fields of `Knowledge`."""
        ...

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return what this adversary sees of it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Server:
    """An honest-but-curious server: it follows the protocol and looks at each client's update.

    It always holds the model, the protocol and the update; the fields are what it is granted besides.
    `order`: the order in which the client visits its examples, epoch by epoch, that of granted labels too.
    `hyperparameters`: the client's local steps and their rates; that it shares a gradient is always known.
    `statistics`: the running statistics of BatchNorm layers in train mode, as they are after local training.
    """

    batch_size: bool = True
    labels: bool = False
    label_counts: bool = False
    defense: bool = True
    order: bool = False
    hyperparameters: bool = True
    statistics: bool = False

    def __post_init__(self) -> None:
        """Raise SpecificationError if an option is of another kind than its annotation, or out of range."""
        check_fields(self)

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge granted."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name))

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return what this adversary sees of it.

        The client trains with its own copies of model, loss, training and defense. The adversary's copies are made
        before. What the training changes in classes, functions and globals, which no copy parts, is put back. The
        observation holds nothing that leads to the batch, but for what the threat model grants.

        Raises:
            ModelError: something that both must share keeps what the client trained on, or a hook changes the update.
        """
        trained_on, sizes = [batch], self.sizes(len(batch))
        shared = SharedState.of(client, batch, sizes)
        own = replace(client.apart(), trained_on=trained_on)
        with client.shared():
            seen = self.look(own, batch, seeds=seeds)
        drawn = own.drawn(len(batch), seeds=seeds)
        secret = () if self.order else orders_of(drawn)
        # Orders that the caller fixed are part of the protocol, which is known.
        check_isolated(seen, trained_on, () if secret == orders_of(client) else secret)
        shared.check()
        return seen

    def sizes(self, count: int) -> list[int]:
        """Return how many of `count` examples one client trains on: each number once."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Return the observation, unchecked. `client` is this call's own."""
        given = client.apart()
        model = client.global_model(seeds=seeds)
        check_finite(model)
        shown = given.seen_model(handed(client, model, batch), seeds=seeds)
        steadiness = Steadiness.of(client, model, batch)
        drawn = client.drawn(len(batch), seeds=seeds)
        update = drawn.share(model, batch, seeds=seeds)
        theirs = given.drawn(len(batch), seeds=seeds)
        orders = orders_of(theirs)
        training = theirs.protocol if self.order else given.protocol
        if not self.hyperparameters and training.kind == "delta":
            training = Withheld(training.kind)
        changed = effect(given.defense, ChangedTraining) if self.defense else None
        if changed is not None:
            training = changed.simulated(training)
        labels = batch.targets.detach().clone() if self.order else _shuffled(batch.targets, seeds)
        return Observation(
            model=shown,
            loss=given.loss,
            training=training,
            update=update,
            domain=given.domain,
            classes=client.classes,
            clients=client.contributors,
            unsteady=steadiness.after(),
            knowledge=Knowledge(
                batch_size=len(batch) if self.batch_size else None,
                labels=labels if self.labels else None,
                label_counts=_counts(batch.targets, client.classes) if self.label_counts else None,
                defense=given.defense if self.defense else None,
                order=orders if self.order else None,
                hyperparameters=training if self.hyperparameters else None,
                statistics=self.told(drawn, model, batch, seeds=seeds) if self.statistics else None,
            ),
        )

    def told(
        self, client: Client, model: nn.Module, batch: Batch, *, seeds: Seeds
    ) -> Tensors | None:
        """The statistics, where granted. Raises KnowledgeError where no layer of the model keeps any."""
        check_normalizers(model)
        return client.statistics(model, batch, seeds=seeds)


def observed(threat: ThreatModel, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
    """Return what the adversary of any threat model sees, a user's own too.

    Raises:
        ModelError: what a threat model of the user's own returns leads to the batch or its targets.
    """
    if type(threat).observe is Server.observe:
        return threat.observe(client, batch, seeds=seeds)
    with client.shared():
        seen = threat.observe(client, batch, seeds=seeds)
    check_isolated(seen, [batch], ())
    update = seen.update
    like = trainable(seen.model)
    if update.tensors.keys() != like.keys():
        # Those of several rounds have names of their own.
        like = {"".join(name): update.tensors[name] for name in sorted(update.tensors)}
    return replace(seen, update=plain_update(update, like))


def orders_of(client: Client) -> tuple[tuple[int, ...], ...]:
    """Return the order of each local epoch, if the client shuffles and has drawn them."""
    return client.protocol.orders if isinstance(client.protocol, Shuffled) else ()


def refuse_statistics(threat: Server, because: str) -> None:
    """Raise SpecificationError where a threat model that never sees statistics is told to grant them."""
    if threat.statistics:
        raise SpecificationError(
            "threat.statistics",
            expected=f"false: {because}",
            found="true",
            remedy="leave it out",
        )


def _shuffled(targets: Tensor, seeds: Seeds) -> Tensor:
    """The labels without the batch's order, which no server sees."""
    order = torch.randperm(len(targets), generator=seeds.generator("label order"))
    return targets.detach()[order.to(targets.device)].clone()


def _counts(targets: Tensor, classes: int | None) -> Tensor:
    if classes is None or targets.ndim != 1 or targets.is_floating_point():
        raise KnowledgeError(
            "threat model",
            expected="class labels, to grant label_counts",
            found=f"targets of shape {tuple(targets.shape)} and type {targets.dtype}",
            remedy="grant labels instead",
        )
    return torch.bincount(targets.detach(), minlength=classes)


__all__ = ["Server", "ThreatModel", "observed", "refuse_statistics"]
