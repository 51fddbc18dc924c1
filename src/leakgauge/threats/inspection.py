"""A search of everything that an observation reaches for the private batch.

The adversary's model is a copy from before the training, and the client trains with its own copies of loss, training
and defense. What the training changes in classes, functions and globals is put back, see
`federated.isolation.shared`. The search finds what cannot be put back, as in a generator's frame, and what a model
kept that ran on the batch before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor, nn

from leakgauge.core import ModelError, Observation, Seeds, space_of
from leakgauge.core.summaries import Summarized
from leakgauge.federated.clients.client import Batch, Client, fitting
from leakgauge.federated.clients.steadiness import evaluated, own_generators
from leakgauge.federated.isolation.auditable import audited
from leakgauge.federated.isolation.layouts import bits_of, is_dense
from leakgauge.federated.isolation.reach import Place, reached
from leakgauge.federated.training.fedsgd import local_update
from leakgauge.threats.handover import without_hooks
from leakgauge.threats.secrets import Secrets
from leakgauge.threats.vectors import as_tensor


def check_isolated(
    observation: Observation, batches: Sequence[Batch], orders: Sequence[Sequence[int]]
) -> None:
    """Raise ModelError if the observation leads to a private batch, to its targets or to its order.

    batches: the private batch, and every batch that the client's defense made of it. orders: the order in which the
    client visits its examples, epoch by epoch, unless it is granted. What the threat model grants is not searched. Of
    the update, only shared memory counts: its values are what the audit is about.
    """
    granted = observation.knowledge
    secrets = Secrets.of(batches, orders, observation.domain)
    if granted.labels is not None and granted.order is not None:
        secrets = replace(secrets, targets=())
    known: list[object] = [granted.labels, granted.label_counts, granted.order, granted.statistics]
    shapes = {parameter.shape for parameter in observation.model.parameters()}
    for place in reached(observation, "observation", skipped=[*known, observation.update]):
        found = secrets.found_in(place.value, learned=is_learned(place, shapes))
        if found is not None:
            raise kept(place, found)
    told = [*observation.update.tensors.values(), *(granted.statistics or {}).values()]
    for tensor in [*told, *(t for t in known if isinstance(t, Tensor))]:
        if secrets.shares_memory(tensor):
            raise kept(Place("observation.update", tensor), "memory of the private batch")


def is_learned(place: Place, shapes: Collection[torch.Size]) -> bool:
    """Return whether a place holds a parameter of the protocol's models, or a tensor that a hook makes of one.

    shapes: those of the model's parameters. Weight norm, spectral norm and pruning make tensors of these shapes.
    """
    value = place.value
    # Nested tensors have no shape that can be compared.
    if not isinstance(value, Tensor) or not is_dense(value) or value.shape not in shapes:
        return False
    return place.path.startswith(("observation.model", "observation.training"))


@dataclass(frozen=True, repr=False)
class SharedState(Summarized):
    """What functions and classes hold, which client and adversary share: no copy parts them.

    Whatever is new there after the client trained comes from the batch: an output, a gradient, a part of the targets.
    `client` is a copy that never trains, its model without hooks. `before`: fingerprints of the arrays that it reached.
    """

    client: Client
    before: frozenset[bytes]

    @classmethod
    def of(cls, client: Client, like: Batch, sizes: Sequence[int]) -> SharedState:
        """Take the state before `client` trains on examples of the shapes of `like`, as many at once as in `sizes`.

        Training on random inputs comes first, so that what forward or loss caches by shape is there already.
        """
        # A model may refuse random inputs and still take the batch. Then its caches, if any, are not filled.
        with suppress(ModelError):
            fill_caches(client.apart(), like, sizes)
        still = replace(client.apart(), model=without_hooks(audited(client.model))[0])
        arrays = (fingerprint(place.value) for place in reached(still, "client"))
        return cls(still, frozenset(key for key in arrays if key is not None))

    def check(self) -> None:
        """Raise ModelError if an array is reached that was not there before."""
        for place in reached(self.client, "client"):
            key = fingerprint(place.value)
            if key is not None and key not in self.before:
                raise kept(place, f"a {type(place.value).__name__} that the training left there")


def fill_caches(client: Client, like: Batch, sizes: Sequence[int]) -> None:
    """Train on random inputs, as many at once as in `sizes`, and forget the updates."""
    model, batch = audited(client.model), neutral(client, like)
    evaluated(client, model, batch)
    for size in sizes:
        some = batch.inputs[:size], batch.targets[:size]
        with own_generators(batch.inputs.device), fitting(model, *some):
            local_update(client.training, model, client.loss, *some)


def neutral(client: Client, like: Batch) -> Batch:
    """Return random inputs and constant targets of the shapes of a batch."""
    drawn = space_of(client.domain).sample(len(like), Seeds().generator("neutral"))
    constant = 0.5 if like.targets.is_floating_point() else 0
    return Batch(drawn.to(like.inputs), torch.full_like(like.targets, constant))


def fingerprint(value: object) -> bytes | None:
    """Return a digest of a tensor, an array, bytes or a list of two numbers or more, or None of anything else.

    Parameters are left out: copies of a model have their own.
    """
    if isinstance(value, (nn.Parameter, tuple)):
        return None
    tensor = as_tensor(value)
    if tensor is None or tensor.numel() < 2:
        return None
    return blake2b(bits_of(tensor).cpu().numpy().tobytes(), digest_size=16).digest()


def kept(place: Place, what: str) -> ModelError:
    """Return the error for an object at `place` that holds `what`."""
    return ModelError(
        place.path,
        expected="nothing of what the client trained on",
        found=what,
        remedy="do not keep inputs, targets or outputs there: run the model on other data before the audit, "
        "and let forward, loss and hooks keep nothing outside the object that they belong to",
    )


__all__ = ["SharedState", "check_isolated"]
