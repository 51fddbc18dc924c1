"""The loss for a copy of the model that computes in another precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leakgauge.core import Loss, Observation, ProbeError, deep_copy
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import value_of


def loss_in(
    observation: Observation, dtype: torch.dtype, device: torch.device | None = None
) -> Loss:
    """Return the observed loss for outputs of type `dtype`.

    A loss that is a module is copied, with its tensors converted to `dtype`. A function may hold
    tensors that cannot be converted, and fail on outputs of type `dtype`. It then gets its outputs
    in the observed precision.
    """
    loss = observation.loss
    if isinstance(loss, nn.Module):
        moved = deep_copy(loss).to(dtype=dtype)
        loss = moved if device is None else moved.to(device)
    like = observation.update.like
    if dtype == like.dtype:
        return loss
    # A loss that accepts none of the tested kinds of targets is returned unchanged.
    wanted = _accepted_targets(observation.loss, observation, like.dtype, like.device)
    found = _accepted_targets(loss, observation, dtype, device or like.device)
    return loss if wanted <= found else observed_precision(observation.loss, like)


def observed_precision(loss: Loss, like: Tensor) -> Loss:
    """Return the loss with outputs and soft targets converted to the type and device of `like`."""

    def converted(outputs: Tensor, targets: Tensor) -> Tensor:
        moved = targets.to(like) if targets.is_floating_point() else targets.to(like.device)
        return value_of(loss, outputs.to(like), moved).to(outputs)

    return converted


def _accepted_targets(
    loss: Loss, observation: Observation, dtype: torch.dtype, device: torch.device
) -> set[str]:
    """Return the names of the usual kinds of targets that the loss accepts, with outputs of this type."""
    outputs = torch.zeros((1, observation.classes or 1), dtype=dtype, device=device)
    kinds = {
        "class labels": torch.zeros(1, dtype=torch.long, device=device),
        "a number for each output": torch.zeros_like(outputs),
        "a number for each example": outputs.new_zeros(1),
    }
    found = set()
    for name, targets in kinds.items():
        try:
            with probing("the loss"):
                value_of(loss, outputs, targets)
        except ProbeError:
            continue
        found.add(name)
    return found
