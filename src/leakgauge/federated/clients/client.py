"""The client's side: it holds the private batch. Attacks never import this."""

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
    defended_update,
    effect,
    effects_of,
    plain_update,
    trainable,
)
from leakgauge.core.allowance import Allowance
from leakgauge.core.lines import describe_error
from leakgauge.core.ranges import Count, check_fields
from leakgauge.core.seams import check_shared, defended_batch, defended_training
from leakgauge.core.space import check_real
from leakgauge.core.summaries import Summarized
from leakgauge.federated.isolation.auditable import audited, check_finite
from leakgauge.federated.isolation.copies import own_copy
from leakgauge.federated.isolation.shared import restored
from leakgauge.federated.layers.placement import check_placed
from leakgauge.federated.layers.statistics import carried
from leakgauge.federated.training.fedavg import first_epoch
from leakgauge.federated.training.fedsgd import FedSGD, local_update, with_orders
from leakgauge.federated.training.local_steps import moved

OWN = "own/"
"""What a client's memory calls the updates of parameters that stay its own."""


@dataclass(frozen=True, repr=False)
class Batch(Summarized):
    """A private batch: inputs (B, *shape) in the domain's units, targets (B,) or (B, K)."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Raise DataError unless both are dense tensors, with one target for each input."""
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
                remedy="pass matching tensors",
            )

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True, repr=False)
class Client(Summarized):
    """A model, its loss, the protocol and the defense: everything but the batch.

    `trained_on`, if a list, gets each batch that the client trains on, as its defense made it.
    """

    model: nn.Module
    loss: Loss
    domain: Domain
    classes: Count | None
    training: LocalTraining = field(default_factory=FedSGD)
    defense: Defense | None = None
    trained_on: list[Batch] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise SpecificationError if a field is of another kind than its annotation, or out of range."""
        check_fields(self)

    @property
    def protocol(self) -> LocalTraining:
        """What turns the batch into what leaves, before any defense: the adversary's forward operator."""
        return self.training

    @property
    def contributors(self) -> int:
        """Of how many clients what leaves is the mean."""
        return 1

    def apart(self) -> Client:
        """Return this client with its own copy of everything but the model, which each training copies itself."""
        kept = {"model", "trained_on"}
        names = [each.name for each in fields(self) if each.name not in kept]
        own = {name: own_copy(getattr(self, name), name) for name in names}
        return replace(self, **own, trained_on=None)

    def shared(self) -> AbstractContextManager[None]:
        """Put back on exit what the code inside changes in classes, functions and globals of the user's objects."""
        kept = (getattr(self, each.name) for each in fields(self) if each.name != "trained_on")
        return restored(*kept)

    def global_model(self, *, seeds: Seeds) -> nn.Module:
        """A copy of the network that server and client both use, after the defense's model seam."""
        model = audited(self.model)
        if self.defense is None:
            return model
        name = type(self.defense).__name__
        with Allowance(f"defense {name}"):
            defended = self.defense.on_model(model, seeds=seeds.child("defense"))
        check_placed(model, defended, self.domain, name)
        return defended

    def seen_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """The client's `model` as the server holds it."""
        hidden = effect(self.defense, HiddenModel)
        return model if hidden is None else hidden.shown(model, seeds=seeds.child("defense"))

    def drawn(self, count: int, *, seeds: Seeds) -> Client:
        """This client with the orders of its local training drawn for a batch of `count` examples."""
        return replace(
            self, training=with_orders(self.training, count, seeds=seeds.child("client"))
        )

    def share(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Update:
        """Train `model` on `batch` and return what leaves the client. Raises UpdateError where it is not finite."""
        return self.continued(model, batch, {}, seeds=seeds)[0]

    def continued(
        self, model: nn.Module, batch: Batch, memory: Tensors, *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """What `share` returns, and what is carried to the next round, of what was carried to this one.

        That is the defense's memory, and of parameters that stay the client's own the sum of all their updates.
        `model` is the client's own, see `own_model`.
        """
        trained, later = self._trained(model, batch, seeds), Tensors()
        update = trained
        if self.defense is not None:
            child = seeds.child("defense")
            update, later = defended_update(self.defense, update, memory, seeds=child)
        check_shared(self.defense, trained, update, trainable(model))
        for name in kept_local(self.defense, trained.tensors):
            later[OWN + name] = trained.tensors[name] + memory.get(OWN + name, 0)
        return plain_update(update, trainable(model)), later

    def own_model(self, model: nn.Module, memory: Tensors, *, rate: float) -> nn.Module:
        """This client's network: a copy of the server's `model`, the parameters of its own moved as `memory` has it.

        By their weight differences, or against their gradients, times `rate`. Where it has none, `model` itself.
        """
        gathered = {n.removeprefix(OWN): t for n, t in memory.items() if n.startswith(OWN)}
        scale = 1.0 if self.training.kind == "delta" else -rate
        return moved(model, gathered, scale) if gathered else model

    def statistics(self, model: nn.Module, batch: Batch, *, seeds: Seeds) -> Tensors:
        """The running statistics of BatchNorm layers in train mode after the training that `share` runs, by name.

        No defense of an update acts on them.
        """
        with carried(model) as after:
            self._trained(model, batch, seeds)
        return after()

    def _trained(self, model: nn.Module, batch: Batch, seeds: Seeds) -> Update:
        """Everything before the last seam: equal for equal seeds."""
        inputs, targets, defense = batch.inputs, batch.targets, self.defense
        training = with_orders(self.training, len(batch), seeds=seeds.child("client"))
        seeds = seeds.child("defense")
        if defense is not None:
            if effects_of(defense, MixedExamples):
                check_real(inputs, "defense that mixes examples")
                targets = mixable(targets, self.classes).to(inputs)
            inputs, targets = defended_batch(defense, inputs, targets, seeds=seeds)
            training = defended_training(defense, training, seeds=seeds)
        if self.trained_on is not None:
            self.trained_on.append(Batch(inputs, targets))
        with seeds.isolated("training"), fitting(model, inputs, targets):
            update = local_update(training, model, self.loss, inputs, targets)
            return Update(update, training.kind).detached()

    def check(self, batch: Batch) -> None:
        """Raise ModelError or DataError unless model, loss and batch fit together."""
        check_batch(batch, self.domain, self.classes)
        model, own = audited(self.model), self.apart()
        check_finite(model)
        # What goes wrong here is told below; a warning on the way would only blur it.
        with (
            self.shared(),
            warnings.catch_warnings(),
            Seeds().isolated("check"),
            fitting(model, batch.inputs, batch.targets),
        ):
            warnings.simplefilter("ignore")
            # One epoch shows whether they fit; the others take their time.
            training = first_epoch(own.training)
            local_update(training, model, own.loss, batch.inputs, batch.targets)


def kept_local(defense: Defense | None, names: Iterable[str]) -> frozenset[str]:
    """Return which of the parameters of these names stay a client's own."""
    kept = effect(defense, KeptLocal)
    return frozenset() if kept is None else kept.names(list(names))


@contextmanager
def fitting(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[None]:
    """Raise every foreign exception of a training as a ModelError: model, loss and batch do not fit together."""
    try:
        yield
    except (LeakGaugeError, KeyboardInterrupt):
        raise
    # A user's forward and loss can fail in any way that Python knows: each becomes one line.
    except BaseException as error:
        raise ModelError(
            f"model {type(model).__name__}",
            expected=f"a forward and a loss that accept inputs {tuple(inputs.shape)} "
            f"and targets {tuple(targets.shape)}",
            found=describe_error(error),
            remedy="match the model's first and last layers to the data, and the loss to (outputs, targets)",
        ) from error


def mixable(targets: Tensor, classes: int | None) -> Tensor:
    """Targets that can be averaged: class labels (B,) as rows (B, K), others as they are. DataError without K."""
    if targets.ndim != 1 or targets.is_floating_point():
        return targets
    if classes is None:
        raise DataError(
            "batch",
            expected="a known number of classes, to mix class labels",
            found="none",
            remedy="state how many classes the data has",
        )
    return one_hot(targets, classes)


def check_batch(batch: Batch, domain: Domain, classes: int | None) -> None:
    """Raise DataError unless a batch lies in the domain's shape, and its labels in [0, classes)."""
    if tuple(batch.inputs.shape[1:]) != domain.shape:
        raise DataError(
            "batch",
            expected=f"examples of shape {domain.shape}",
            found=f"{tuple(batch.inputs.shape[1:])}",
            remedy="reshape the data or declare its own domain",
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
                found=f"{low} to {high}",
                remedy="raise the model's number of classes",
            )
