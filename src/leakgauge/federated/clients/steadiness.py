"""Whether a model computes the same whenever it runs: the client's training and every simulation of it must agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from leakgauge.core import Seeds, Tensors, copied
from leakgauge.core.origin import is_our_class
from leakgauge.core.summaries import Summarized
from leakgauge.federated.clients.client import Batch, Client, fitting
from leakgauge.federated.isolation.layouts import bits_of, dense_parts, is_narrow
from leakgauge.federated.isolation.shared import restored
from leakgauge.federated.training.fedsgd import FedSGD, local_update

EQUAL_WITHIN = 1e-5
"""Largest relative difference of two evaluations that counts as rounding. Threads add up in any order."""
PROBED = 2
"""How many examples the library's own training is probed on. A local training of the user's sees the whole batch."""


@dataclass(frozen=True, repr=False)
class Steadiness(Summarized):
    """Compares evaluations of one update at equal inputs and equal seeds of torch.

    `first` is taken before the client trains, on a copy of its model. What one forward changes and
    `leakgauge.federated.isolation.untouched` cannot undo shows in a later one.
    """

    client: Client
    model: nn.Module
    batch: Batch
    first: Tensors
    reason: str | None

    @classmethod
    def of(cls, client: Client, model: nn.Module, batch: Batch) -> Steadiness:
        """Evaluate twice on one copy of `model`."""
        # The client's training starts from the state that the adversary gets.
        with client.shared(), restored(model):
            twin = copied(model)
            first = evaluated(client, twin, batch)
            return cls(client, model, batch, first, written(twin, model))._compared(twin)

    def after(self) -> str | None:
        """Return why client and simulation may differ, in one line, or None if they agree. Evaluates once more."""
        return self._compared(copied(self.model)).reason

    def _compared(self, model: nn.Module) -> Steadiness:
        if self.reason is not None:
            return self
        apart = difference(self.first, evaluated(self.client, model, self.batch))
        reason = None
        if apart > EQUAL_WITHIN:
            reason = (
                "the model changes as it runs: two evaluations at one input and one seed differ"
            )
        return Steadiness(self.client, self.model, self.batch, self.first, reason)


def evaluated(client: Client, model: nn.Module, batch: Batch) -> Tensors:
    """Return one update of `model`, at seeds of its own for every generator of torch."""
    ours = is_our_class(type(client.training))
    training = FedSGD() if ours else client.training
    count = min(PROBED, len(batch)) if ours else len(batch)
    inputs, targets = batch.inputs[:count], batch.targets[:count]
    with own_generators(inputs.device), fitting(model, inputs, targets):
        return local_update(training, model, client.loss, inputs, targets)


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and put all generators back, those of Python and numpy too."""
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
    """Return the relative difference ||a - b|| / max(||a||, ||b||) of two updates; 0 for equal ones.

    Entries that are not finite count as 0.
    """
    if all(_same(t, other[name]) for name, t in one.items()):
        return 0.0
    a, b = (torch.cat([_finite(t).double().flatten() for t in u.values()]) for u in (one, other))
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()))


def written(after: nn.Module, before: nn.Module) -> str | None:
    """Return that a run wrote to a parameter or a buffer, in one line, or None if it did not."""
    held: Tensors = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    now: Tensors = {**dict(after.named_parameters()), **dict(after.named_buffers())}
    changed = [n for n, t in now.items() if n in held and not _same(held[n], t)]
    if not changed:
        return None
    return f"the model changes as it runs: its forward writes to {changed[0]!r}"


def _same(one: Tensor, other: Tensor) -> bool:
    parts, others = dense_parts(one), dense_parts(other)
    if [part.shape for part in parts] != [part.shape for part in others]:
        return False
    return all(
        torch.equal(bits_of(a), bits_of(b)) or torch.equal(_finite(a), _finite(b))
        for a, b in zip(parts, others, strict=True)
    )


def _finite(tensor: Tensor) -> Tensor:
    wide = tensor.detach().float() if is_narrow(tensor) else tensor.detach()
    return torch.nan_to_num(wide, 0.0, 0.0, 0.0)


__all__ = ["Steadiness", "difference", "evaluated", "own_generators"]
