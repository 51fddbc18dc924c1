"""A check that a model gives the same update each time, so that client and simulation agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from leakgauge.core import Seeds, Tensors, deep_copy
from leakgauge.core.origin import is_our_class
from leakgauge.core.summaries import Summarized
from leakgauge.federated.clients.client import Batch, Client, fitting
from leakgauge.federated.isolation.layouts import bits_of, dense_parts, is_narrow
from leakgauge.federated.isolation.shared import restored
from leakgauge.federated.training.fedsgd import FedSGD, local_update

EQUAL_WITHIN = 1e-5
"""Largest relative difference that counts as rounding. Threads may add numbers in any order."""
PROBED = 2
"""Number of examples in each evaluation, for a training of this library. A user's own training gets the whole batch."""


@dataclass(frozen=True, repr=False)
class Steadiness(Summarized):
    """A comparison of evaluations of one update, at equal inputs and equal seeds of torch.

    A forward pass may change a state that `leakgauge.federated.isolation.untouched` cannot restore.
    A later evaluation then differs.

    Args:
        client: The client.
        model: Its model.
        batch: Its batch.
        first: The update that was computed first, on a copy of the model, before the client
            trained.
        reason: Why evaluations differ, in one line, or None if they agree so far.
    """

    client: Client
    model: nn.Module
    batch: Batch
    first: Tensors
    reason: str | None

    @classmethod
    def of(cls, client: Client, model: nn.Module, batch: Batch) -> Steadiness:
        """Compute the update twice on one copy of `model`, and return the comparison."""
        # The state is restored, because the client's training must start from the state that the
        # adversary gets.
        with client.shared(), restored(model):
            twin = deep_copy(model)
            first = evaluate_update(client, twin, batch)
            return cls(client, model, batch, first, describe_write(twin, model))._compared(twin)

    def after(self) -> str | None:
        """Compute the update once more, on a new copy.

        Return why client and simulation may differ, or None if they agree.
        """
        return self._compared(deep_copy(self.model)).reason

    def _compared(self, model: nn.Module) -> Steadiness:
        """Return this comparison with one more evaluation, on `model`."""
        if self.reason is not None:
            return self
        apart = difference(self.first, evaluate_update(self.client, model, self.batch))
        reason = None
        if apart > EQUAL_WITHIN:
            reason = (
                "the model changes as it runs: two evaluations with equal inputs and seeds differ"
            )
        return Steadiness(self.client, self.model, self.batch, self.first, reason)


def evaluate_update(client: Client, model: nn.Module, batch: Batch) -> Tensors:
    """Return one update of `model`, with fixed seeds for every generator of torch."""
    ours = is_our_class(type(client.training))
    training = FedSGD() if ours else client.training
    count = min(PROBED, len(batch)) if ours else len(batch)
    inputs, targets = batch.inputs[:count], batch.targets[:count]
    with own_generators(inputs.device), fitting(model, inputs, targets):
        return local_update(training, model, client.loss, inputs, targets)


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Seed the generators of torch inside. Restore them on exit, and those of Python and numpy too."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), Seeds().isolated("steadiness"):
            if devices:
                torch.cuda.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def difference(one: Tensors, other: Tensors) -> float:
    """Return the relative difference `||a - b|| / max(||a||, ||b||)` of two updates, 0 if they are equal.

    Entries that are not finite count as 0.
    """
    if all(_same(t, other[name]) for name, t in one.items()):
        return 0.0
    a, b = (torch.cat([_finite(t).double().flatten() for t in u.values()]) for u in (one, other))
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()))


def describe_write(after: nn.Module, before: nn.Module) -> str | None:
    """Return, in one line, which parameter or buffer a run wrote to, or None if it wrote to none."""
    held: Tensors = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    now: Tensors = {**dict(after.named_parameters()), **dict(after.named_buffers())}
    changed = [n for n, t in now.items() if n in held and not _same(held[n], t)]
    if not changed:
        return None
    return f"the model changes as it runs: its forward writes to {changed[0]!r}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of any layout are equal in their bits, or in their finite values."""
    parts, others = dense_parts(one), dense_parts(other)
    if [part.shape for part in parts] != [part.shape for part in others]:
        return False
    return all(
        torch.equal(bits_of(a), bits_of(b)) or torch.equal(_finite(a), _finite(b))
        for a, b in zip(parts, others, strict=True)
    )


def _finite(tensor: Tensor) -> Tensor:
    """Return a tensor of floating-point numbers with 0 in place of each entry that is not finite."""
    wide = tensor.detach().float() if is_narrow(tensor) else tensor.detach()
    return torch.nan_to_num(wide, 0.0, 0.0, 0.0)


__all__ = ["Steadiness", "difference", "evaluate_update", "own_generators"]
