"""The client, which holds the private batch. Attacks never import this module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from leakgauge.core import (
    DataError,
    Defense,
    Domain,
    HiddenModel,
    KeptLocal,
    LeakGaugeError,
    LocalTraining,
    Loss,
    MixedExamples,
    ModelError,
    Seeds,
    Tensors,
    Update,
    defend_update,
    effect,
    effects_of,
    plain_update,
    trainable,
)
from leakgauge.core.allowance import Allowance
from leakgauge.core.lines import describe_error
from leakgauge.core.ranges import Count, check_fields
from leakgauge.core.seams import check_shared, defend_batch, defend_training
from leakgauge.core.space import check_real
from leakgauge.core.summaries import Summarized
from leakgauge.federated.isolation.auditable import audited, check_finite
from leakgauge.federated.isolation.copies import own_copy
from leakgauge.federated.isolation.shared import restored
from leakgauge.federated.layers.placement import check_placed
from leakgauge.federated.layers.statistics import carry_statistics
from leakgauge.federated.training.fedavg import first_epoch
from leakgauge.federated.training.fedsgd import FedSGD, local_update, with_orders
from leakgauge.federated.training.local_steps import shift_model

OWN = "own/"
"""Prefix, in a client's memory, of the names of parameters that stay its own."""


@dataclass(frozen=True, repr=False)
class Batch(Summarized):
    """A private batch: the examples that a client trains on.

    Args:
        inputs: Examples `(B, *shape)`, a dense tensor in the units of the domain. B is at least 1.
        targets: Class labels (B,) as integers, or floating-point targets (B,) or (B, K), such as soft
            labels.

    Raises:
        DataError: The tensors are not dense, or there is not one target for each input.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> batch = lg.Batch(torch.rand(2, 1, 8, 8), torch.tensor([3, 7]))
        >>> len(batch)
        2
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Raise DataError unless inputs and targets are dense tensors of equal length."""
        check_fields(self, DataError)
        for name, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            if tensor.layout != torch.strided or tensor.ndim == 0:
                raise DataError(
                    f"batch, {name}",
                    expected="a dense tensor of at least one axis",
                    found=f"shape {tuple(tensor.shape)}, layout {tensor.layout}",
                    remedy="convert it, for example with tensor.to_dense()",
                )
        if len(self.inputs) != len(self.targets) or len(self.inputs) == 0:
            raise DataError(
                "batch",
                expected="as many targets as inputs, at least one",
                found=f"{len(self.inputs)} inputs and {len(self.targets)} targets",
                remedy="pass one target for each input",
            )

    def __len__(self) -> int:
        """Return the number of examples B."""
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True, repr=False)
class Client(Summarized):
    """A client: a model, a loss, local training and a defense. It holds everything except the batch.

    Use it with a threat model, whose `observe` returns what an adversary sees of the client's
    training.

    Args:
        model: The network that the client trains.
        loss: A function of outputs and targets. It returns a scalar tensor.
        domain: The space of the inputs, for example `ImageDomain`.
        classes: Number of classes of the labels, or None if targets are no class labels.
        training: The local training. The default, `FedSGD`, shares one gradient.
        defense: The defense that changes the model, the batch, the training or the update. None is
            no defense.
        trained_on: A list. Each batch that the client trains on, as the defense changed it, is
            appended to this list. None keeps no batch.

    Raises:
        SpecificationError: A field has the wrong type, or lies outside its range.

    Example:
        >>> from torch import nn
        >>> import leakgauge as lg
        >>> client = lg.Client(
        ...     model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        ...     loss=nn.functional.cross_entropy,
        ...     domain=lg.ImageDomain(channels=1, height=8, width=8),
        ...     classes=10,
        ...     training=lg.FedAvg(epochs=2, learning_rate=0.1),
        ... )
        >>> batch = lg.examples.batch(4)
        >>> client.check(batch)
        >>> lg.Server().observe(client, batch, seeds=lg.Seeds(0)).update.kind
        'delta'
    """

    model: nn.Module
    loss: Loss
    domain: Domain
    classes: Count | None
    training: LocalTraining = field(default_factory=FedSGD)
    defense: Defense | None = None
    trained_on: list[Batch] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise SpecificationError if a field has the wrong type, or lies outside its range."""
        check_fields(self)

    @property
    def protocol(self) -> LocalTraining:
        """The map from the batch to the update without a defense. The adversary simulates it."""
        return self.training

    @property
    def contributors(self) -> int:
        """The number of clients in the shared update. It is 1 for a single client."""
        return 1

    def apart(self) -> Client:
        """Return this client with separate copies of all its parts except the model.

        Each training makes its own copy of the model.
        """
        kept = {"model", "trained_on"}
        names = [each.name for each in fields(self) if each.name not in kept]
        own = {name: own_copy(getattr(self, name), name) for name in names}
        return replace(self, **own, trained_on=None)

    def shared(self) -> AbstractContextManager[None]:
        """Return a context that undoes, on exit, all changes inside it to the user's objects, classes and globals."""
        kept = (getattr(self, each.name) for each in fields(self) if each.name != "trained_on")
        return restored(*kept)

    def global_model(self, *, seeds: Seeds) -> nn.Module:
        """Return a copy of the network that server and client both use, after `on_model` of the defense."""
        model = audited(self.model)
        if self.defense is None:
            return model
        name = type(self.defense).__name__
        with Allowance(f"defense {name}"):
            defended = self.defense.on_model(model, seeds=seeds.child("defense"))
        check_placed(model, defended, self.domain, name)
        return defended

    def seen_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return the client's `model` as the server sees it."""
        hidden = effect(self.defense, HiddenModel)
        return model if hidden is None else hidden.shown(model, seeds=seeds.child("defense"))

    def draw_orders(self, count: int, *, seeds: Seeds) -> Client:
        """Return this client with drawn orders of `count` examples for its local training."""
        return replace(
            self, training=with_orders(self.training, count, seeds=seeds.child("client"))
        )

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        """Train `model` on `batch` and return the update that leaves the client.

        Raises:
            UpdateError: The update is not finite.
        """
        return self.share_and_remember(model, batch, {}, seeds=seeds)[0]

    def share_and_remember(
        self, model: nn.Module, batch: Batch, memory: Tensors, *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """Train as `share` does. Return the update, and the memory for the next round.

        The memory holds the state of the defense. It also holds the sum of all updates of the
        parameters that stay the client's own.

        Args:
            model: The client's own network, see `own_model`.
            batch: The private batch of this round.
            memory: The memory from the round before, empty in the first round.
            seeds: Seeds of everything that the client draws in this round.
        """
        trained, later = self._trained(model, batch, seeds), Tensors()
        update = trained
        if self.defense is not None:
            child = seeds.child("defense")
            update, later = defend_update(self.defense, update, memory, seeds=child)
        check_shared(self.defense, trained, update, trainable(model))
        for name in kept_local(self.defense, trained.tensors):
            later[OWN + name] = trained.tensors[name] + memory.get(OWN + name, 0)
        return plain_update(update, trainable(model)), later

    def own_model(self, model: nn.Module, memory: Tensors, *, rate: float) -> nn.Module:
        """Return this client's network: the server's `model` with the client's own parameters.

        Only the client's own updates move these parameters. `memory` holds the sum of these
        updates. A weight difference is added to the parameters. A gradient is subtracted, times
        `rate`. If the memory holds no update, `model` itself is returned.
        """
        gathered = {n.removeprefix(OWN): t for n, t in memory.items() if n.startswith(OWN)}
        scale = 1.0 if self.training.kind == "delta" else -rate
        return shift_model(model, gathered, scale) if gathered else model

    def statistics(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Tensors:
        """Return the running statistics of BatchNorm layers after the training in `share`, by name.

        Only layers in train mode are included. A defense that changes the update does not change
        these statistics.
        """
        with carry_statistics(model) as after:
            self._trained(model, batch, seeds)
        return after()

    def _trained(self, model: nn.Module, batch: Batch, seeds: Seeds) -> Update:
        """Return the update before the defense's `on_update`. Equal seeds give equal updates."""
        inputs, targets, defense = batch.inputs, batch.targets, self.defense
        training = with_orders(self.training, len(batch), seeds=seeds.child("client"))
        seeds = seeds.child("defense")
        if defense is not None:
            if effects_of(defense, MixedExamples):
                check_real(inputs, "defense that mixes examples")
                targets = mixable(targets, self.classes).to(inputs)
            inputs, targets = defend_batch(defense, inputs, targets, seeds=seeds)
            training = defend_training(defense, training, seeds=seeds)
        if self.trained_on is not None:
            self.trained_on.append(Batch(inputs, targets))
        with seeds.isolated("training"), fitting(model, inputs, targets):
            update = local_update(training, model, self.loss, inputs, targets)
            return Update(update, training.kind).detached()

    def check(self, batch: Batch) -> None:
        """Check that model, loss and batch fit together, by training on the batch once.

        Raises:
            ModelError: The model or the loss fails, or the model has no finite weights to train.
            DataError: The batch lies outside the domain, or its labels outside the classes.
        """
        check_batch(batch, self.domain, self.classes)
        model, own = audited(self.model), self.apart()
        check_finite(model)
        # Warnings would distract from the error message, which is one clear line.
        with (
            self.shared(),
            warnings.catch_warnings(),
            Seeds().isolated("check"),
            fitting(model, batch.inputs, batch.targets),
        ):
            warnings.simplefilter("ignore")
            # One epoch shows whether they fit. More epochs would only take time.
            training = first_epoch(own.training)
            local_update(training, model, own.loss, batch.inputs, batch.targets)


def kept_local(defense: Defense | None, names: Iterable[str]) -> frozenset[str]:
    """Return the names in `names` whose parameters stay a client's own under this defense."""
    kept = effect(defense, KeptLocal)
    return frozenset() if kept is None else kept.names(list(names))


@contextmanager
def fitting(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[None]:
    """Raise each exception of the user's code as a ModelError, which says that model, loss and data do not fit."""
    try:
        yield
    except (LeakGaugeError, KeyboardInterrupt):
        raise
    # A user's forward or loss can raise any exception. Each becomes one line.
    except BaseException as error:
        raise ModelError(
            f"model {type(model).__name__}",
            expected=f"a forward and a loss that accept inputs {tuple(inputs.shape)} "
            f"and targets {tuple(targets.shape)}",
            found=describe_error(error),
            remedy="match the model's first and last layers to the data, and the loss to (outputs, targets)",
        ) from error


def mixable(targets: Tensor, classes: int | None) -> Tensor:
    """Return targets that can be averaged: class labels (B,) as one-hot rows (B, K), others unchanged.

    Raises:
        DataError: The number of classes K is not known.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        return targets
    if classes is None:
        raise DataError(
            "batch",
            expected="a known number of classes, to mix class labels",
            found="no number of classes",
            remedy="state the number of classes of the data",
        )
    return one_hot(targets, classes)


def check_batch(batch: Batch, domain: Domain, classes: int | None) -> None:
    """Raise DataError unless a batch is finite, has the domain's shape, and has labels in [0, classes)."""
    if tuple(batch.inputs.shape[1:]) != domain.shape:
        raise DataError(
            "batch",
            expected=f"examples of shape {domain.shape}",
            found=f"examples of shape {tuple(batch.inputs.shape[1:])}",
            remedy="reshape the data, or declare a domain of its shape",
        )
    if not bool(torch.isfinite(batch.inputs).all()):
        raise DataError(
            "batch", expected="finite values", found="NaN or infinity", remedy="clean the data"
        )
    integer = batch.targets.ndim == 1 and not batch.targets.is_floating_point()
    if classes is not None and integer:
        low, high = int(batch.targets.min()), int(batch.targets.max())
        if low < 0 or high >= classes:
            raise DataError(
                "batch",
                expected=f"labels from 0 to {classes - 1}",
                found=f"labels from {low} to {high}",
                remedy="correct the labels, or raise the number of classes",
            )
