"""The contract of threat models, and the server as adversary."""

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
from leakgauge.threats.handover import hand_over
from leakgauge.threats.inspection import SharedState, check_isolated


@runtime_checkable
class ThreatModel(Protocol):
    """A threat model: who attacks, and what the adversary is granted.

    It is the only way from a client to an adversary. A class of your own with these two methods can
    replace the built-in ones.
    """

    @property
    def grants(self) -> frozenset[str]:
        """Names of the knowledge that is granted: fields of `Knowledge`."""
        ...

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return what this adversary sees."""
        ...


@dataclass(frozen=True, kw_only=True)
class Server:
    """An honest-but-curious server. It follows the protocol and attacks the update of one client.

    It stands for a server without secure aggregation, and for anyone who reads what one client
    sends. It always holds the model, the loss, the protocol and the update. The options say what it
    knows in addition.

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
        statistics: Whether it knows the running statistics of BatchNorm layers in train mode, after
            local training.

    Example:
        >>> import leakgauge as lg
        >>> threat = lg.Server(labels=True)
        >>> sorted(threat.grants)
        ['batch_size', 'defense', 'hyperparameters', 'labels']
        >>> lg.examples.observation(batch_size=2, threat=threat).batch_size
        2
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
        """Names of the knowledge that is granted."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name))

    def observe(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Let `client` train on `batch` and return what this adversary sees.

        The client trains with its own copies of model, loss, training and defense. The adversary's
        copies are made before. Changes in classes, functions and globals, which copies do not
        separate, are undone. Nothing in the observation leads to the batch, except what the threat
        model grants.

        Args:
            client: The client.
            batch: Its private batch.
            seeds: Seeds of everything random.

        Raises:
            ModelError: A shared object keeps what the client trained on, or a hook changes the
                update.
        """
        trained_on, sizes = [batch], self.sizes(len(batch))
        shared = SharedState.of(client, batch, sizes)
        own = replace(client.apart(), trained_on=trained_on)
        with client.shared():
            seen = self.look(own, batch, seeds=seeds)
        drawn = own.draw_orders(len(batch), seeds=seeds)
        secret = () if self.order else orders_of(drawn)
        # Orders that the caller fixed are part of the protocol, which the adversary knows.
        check_isolated(seen, trained_on, () if secret == orders_of(client) else secret)
        shared.check()
        return seen

    def sizes(self, count: int) -> list[int]:
        """Return the numbers of examples that one client may hold, each listed once."""
        return [count]

    def look(self, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
        """Return the observation, unchecked. `client` belongs to this call alone."""
        given = client.apart()
        model = client.global_model(seeds=seeds)
        check_finite(model)
        shown = given.seen_model(hand_over(client, model, batch), seeds=seeds)
        steadiness = Steadiness.of(client, model, batch)
        drawn = client.draw_orders(len(batch), seeds=seeds)
        update = drawn.share(model, batch, seeds=seeds)
        theirs = given.draw_orders(len(batch), seeds=seeds)
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
                statistics=self.reveal_statistics(drawn, model, batch, seeds=seeds)
                if self.statistics
                else None,
            ),
        )

    def reveal_statistics(
        self, client: Client, model: nn.Module, batch: Batch, *, seeds: Seeds
    ) -> Tensors | None:
        """Return the running statistics after local training.

        Raises:
            KnowledgeError: No layer of the model keeps any.
        """
        check_normalizers(model)
        return client.statistics(model, batch, seeds=seeds)


def observed(threat: ThreatModel, client: Client, batch: Batch, *, seeds: Seeds) -> Observation:
    """Return what the adversary of any threat model sees. The threat model may be a user's own.

    Args:
        threat: The threat model.
        client: The client.
        batch: Its private batch.
        seeds: Seeds of everything random.

    Raises:
        ModelError: The observation of a user's own threat model leads to the batch or its targets.

    Example:
        >>> import leakgauge as lg
        >>> client, batch = lg.examples.client(), lg.examples.batch(2)
        >>> lg.threats.observed(lg.Server(), client, batch, seeds=lg.Seeds(0)).batch_size
        2
    """
    if type(threat).observe is Server.observe:
        return threat.observe(client, batch, seeds=seeds)
    with client.shared():
        seen = threat.observe(client, batch, seeds=seeds)
    check_isolated(seen, [batch], ())
    update = seen.update
    like = trainable(seen.model)
    if update.tensors.keys() != like.keys():
        # Updates of several rounds have names of their own.
        like = {"".join(name): update.tensors[name] for name in sorted(update.tensors)}
    return replace(seen, update=plain_update(update, like))


def orders_of(client: Client) -> tuple[tuple[int, ...], ...]:
    """Return the order of each local epoch, or nothing if the client does not shuffle or has drawn none."""
    return client.protocol.orders if isinstance(client.protocol, Shuffled) else ()


def refuse_statistics(threat: Server, because: str) -> None:
    """Raise SpecificationError if a threat model grants statistics that its adversary never sees.

    Args:
        threat: The threat model.
        because: The reason, for the message.
    """
    if threat.statistics:
        raise SpecificationError(
            "threat.statistics",
            expected=f"false: {because}",
            found="true",
            remedy="leave statistics out, or set it to false",
        )


def _shuffled(targets: Tensor, seeds: Seeds) -> Tensor:
    """Return the labels in random order, because no server sees the order of the batch."""
    order = torch.randperm(len(targets), generator=seeds.generator("label order"))
    return targets.detach()[order.to(targets.device)].clone()


def _counts(targets: Tensor, classes: int | None) -> Tensor:
    """Return the number of examples of each class (K,)."""
    if classes is None or targets.ndim != 1 or targets.is_floating_point():
        raise KnowledgeError(
            "threat model",
            expected="class labels (B,), because label_counts is granted",
            found=f"targets of shape {tuple(targets.shape)} and type {targets.dtype}",
            remedy="grant labels instead",
        )
    return torch.bincount(targets.detach(), minlength=classes)


__all__ = ["Server", "ThreatModel", "observed", "refuse_statistics"]
