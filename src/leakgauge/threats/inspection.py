"""A search for the private batch in everything that an observation reaches.

The adversary's model is a copy from before the training. The client trains with its own copies of
loss, training and defense. Changes in classes, functions and globals are undone, see
`federated.isolation.shared`.

Two leaks remain, and this search finds them. Some state cannot be put back, for example the frame
of a generator. And a model may keep something from a run on the batch before the audit.
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
from leakgauge.federated.clients.steadiness import evaluate_update, own_generators
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

    The search leaves out what the threat model grants. Of the update it checks only shared memory,
    because the audit is about its values.

    Args:
        observation: What the adversary sees.
        batches: The private batch, and every batch that the client's defense made from it.
        orders: The order in which the client visits its examples, epoch by epoch. Empty if the
            order is granted.

    Raises:
        ModelError: Something within reach holds the batch, its targets or its order.
    """
    granted = observation.knowledge
    secrets = Secrets.of(batches, orders, observation.domain)
    if granted.labels is not None and granted.order is not None:
        secrets = replace(secrets, targets=())
    known: list[object] = [granted.labels, granted.label_counts, granted.order, granted.statistics]
    shapes = {parameter.shape for parameter in observation.model.parameters()}
    for place in reached(observation, "observation", skipped=[*known, observation.update]):
        found = secrets.find_in(place.value, learned=is_learned(place, shapes))
        if found is not None:
            raise leak_error(place, found)
    seen = [*observation.update.tensors.values(), *(granted.statistics or {}).values()]
    for tensor in [*seen, *(t for t in known if isinstance(t, Tensor))]:
        if secrets.shares_memory(tensor):
            raise leak_error(Place("observation.update", tensor), "memory of the private batch")


def is_learned(place: Place, shapes: Collection[torch.Size]) -> bool:
    """Return whether a place holds a parameter of the protocol's models, or a tensor that a hook makes from one.

    Args:
        place: The place.
        shapes: Shapes of the model's parameters. Weight norm, spectral norm and pruning make
            tensors of these shapes.
    """
    value = place.value
    # Nested tensors have no shape to compare.
    if not isinstance(value, Tensor) or not is_dense(value) or value.shape not in shapes:
        return False
    return place.path.startswith(("observation.model", "observation.training"))


@dataclass(frozen=True, repr=False)
class SharedState(Summarized):
    """The state of functions and classes, which client and adversary share because copies do not separate it.

    A new array in this state after the training comes from the batch: an output, a gradient or a
    part of the targets.

    Args:
        client: A copy of the client that never trains. Its model has no hooks.
        before: Fingerprints of the arrays that this client reached before the training.
    """

    client: Client
    before: frozenset[bytes]

    @classmethod
    def of(cls, client: Client, like: Batch, sizes: Sequence[int]) -> SharedState:
        """Record the state before `client` trains.

        A training on random inputs comes first. It fills the caches that a forward or a loss keeps
        by shape.

        Args:
            client: The client.
            like: A batch whose shapes the random inputs have.
            sizes: Numbers of examples on which the client trains at once.
        """
        # A model may refuse random inputs and still accept the batch. Its caches then stay empty.
        with suppress(ModelError):
            fill_caches(client.apart(), like, sizes)
        still = replace(client.apart(), model=without_hooks(audited(client.model))[0])
        arrays = (fingerprint(place.value) for place in reached(still, "client"))
        return cls(still, frozenset(key for key in arrays if key is not None))

    def check(self) -> None:
        """Raise ModelError if an array is reached that was not there before the training."""
        for place in reached(self.client, "client"):
            key = fingerprint(place.value)
            if key is not None and key not in self.before:
                raise leak_error(
                    place, f"a {type(place.value).__name__} that the training left there"
                )


def fill_caches(client: Client, like: Batch, sizes: Sequence[int]) -> None:
    """Train on random inputs, in batches of the given sizes, and discard the updates."""
    model, batch = audited(client.model), neutral_batch(client, like)
    evaluate_update(client, model, batch)
    for size in sizes:
        some = batch.inputs[:size], batch.targets[:size]
        with own_generators(batch.inputs.device), fitting(model, *some):
            local_update(client.training, model, client.loss, *some)


def neutral_batch(client: Client, like: Batch) -> Batch:
    """Return random inputs and constant targets with the shapes of a batch."""
    drawn = space_of(client.domain).sample(len(like), Seeds().generator("neutral"))
    constant = 0.5 if like.targets.is_floating_point() else 0
    return Batch(drawn.to(like.inputs), torch.full_like(like.targets, constant))


def fingerprint(value: object) -> bytes | None:
    """Return a digest of a tensor, an array, bytes or a list with at least two numbers, or None for anything else.

    Parameters have no fingerprint, because every copy of a model has its own.
    """
    if isinstance(value, (nn.Parameter, tuple)):
        return None
    tensor = as_tensor(value)
    if tensor is None or tensor.numel() < 2:
        return None
    return blake2b(bits_of(tensor).cpu().numpy().tobytes(), digest_size=16).digest()


def leak_error(place: Place, what: str) -> ModelError:
    """Return the error for an object at `place` that holds `what`."""
    return ModelError(
        place.path,
        expected="nothing of what the client trained on",
        found=what,
        remedy="keep no inputs, targets or outputs there. Before the audit, run the model only on other data. "
        "Forward, loss and hooks may keep values only in the object to which they belong",
    )


__all__ = ["SharedState", "check_isolated"]
