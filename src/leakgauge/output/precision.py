"""A loss for the adversary's copy of the model in another precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from leakgauge.core import Loss, Observation, ProbeError
from leakgauge.federated.probing import probing
from leakgauge.federated.untouched import value_of


def loss_in(
    observation: Observation, dtype: torch.dtype, device: torch.device | None = None
) -> Loss:
    """Return the observed loss for outputs of type `dtype`.

    A loss that is a module is copied with its tensors in that type. A function that holds tensors of its own, and
    refuses outputs of that type, is given outputs in the observed precision.
    """
    loss = observation.loss
    if isinstance(loss, nn.Module):
        moved = copy.deepcopy(loss).to(dtype=dtype)
        loss = moved if device is None else moved.to(device)
    like = next(iter(observation.update.tensors.values()))
    if dtype == like.dtype or _takes(loss, observation, dtype, device or like.device):
        return loss
    if not _takes(observation.loss, observation, like.dtype, like.device):
        return loss  # it wants targets of a kind that is not tried: it is asked as it is
    return observed_precision(observation.loss, like)


def observed_precision(loss: Loss, like: Tensor) -> Loss:
    """Return the loss with its outputs, and soft targets, moved to the type and device of `like`."""

    def asked(outputs: Tensor, targets: Tensor) -> Tensor:
        moved = targets.to(like) if targets.is_floating_point() else targets.to(like.device)
        return value_of(loss, outputs.to(like), moved).to(outputs)

    return asked


def _takes(loss: Loss, observation: Observation, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the loss takes outputs of this type with targets of any usual kind."""
    width = observation.classes or 1
    outputs = torch.zeros((1, width), dtype=dtype, device=device)
    kinds: list[Callable[[], Tensor]] = [
        lambda: torch.zeros(1, dtype=torch.long, device=device),
        lambda: torch.zeros_like(outputs),
        lambda: torch.zeros((), dtype=dtype, device=device).expand(1),
    ]
    for targets in kinds:
        try:
            with probing("the loss"):
                value_of(loss, outputs, targets())
        except ProbeError:
            continue
        return True
    return False
