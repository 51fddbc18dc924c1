"""One run of an attack, ours or a user's own. What it returns is checked before anything reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from leakgauge.core import (
    Attack,
    AttackError,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.attack import bounded, no_signal, steady


def attempt(
    attack: Attack, observation: Observation, count: int, *, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Return the reconstruction of a batch of `count` examples, with a status that its residual allows.

    A user's own attack need not derive from BaseAttack. It is held to the same promises here. Whatever the attack
    raises passes.

    Raises:
        AttackError: the attack returned something else than a sound reconstruction.
    """
    if not observation.has_signal:
        return no_signal(observation)
    found = attack(observation, seeds=seeds, progress=progress)
    return steady(observation, bounded(sound(attack, found, observation, count)))


def sound(attack: Attack, found: Any, observation: Observation, count: int) -> Reconstruction:
    """Return `found` without a graph and on the CPU. Raise AttackError unless it is a sound reconstruction.

    It holds at least `count` guesses in the domain's shape, one flag and at most one target for each, and finite
    values wherever it says that it has a guess. Only a search that diverged may hold others.
    """
    if not isinstance(found, Reconstruction):
        raise unsound(attack, "a Reconstruction", f"an object of type {type(found).__name__}")
    try:
        status = Status(found.status)
    except ValueError:
        raise unsound(attack, "a Status", repr(found.status)) from None
    inputs, flags = found.inputs, found.found
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise unsound(attack, "inputs as a tensor of floating-point numbers", told(inputs))
    wanted = (max(count, len(inputs)) if inputs.ndim else count, *observation.domain.shape)
    if tuple(inputs.shape) != wanted:
        raise unsound(attack, f"inputs of shape {wanted}", told(inputs))
    if (
        not isinstance(flags, Tensor)
        or flags.dtype != torch.bool
        or flags.shape != inputs.shape[:1]
    ):
        raise unsound(attack, f"found as {len(inputs)} flags", told(flags))
    targets = found.targets
    if targets is not None and (not isinstance(targets, Tensor) or len(targets) != len(inputs)):
        raise unsound(attack, f"targets for {len(inputs)} guesses, or None", told(targets))
    if status is not Status.DIVERGED and not bool(torch.isfinite(inputs[flags]).all()):
        raise unsound(attack, "finite inputs", "NaN or infinity")
    return replace(
        found,
        status=status,
        inputs=inputs.detach().cpu(),
        found=flags.cpu(),
        targets=None if targets is None else targets.detach().cpu(),
    )


def unsound(attack: Attack, expected: str, found: str) -> AttackError:
    """Return the error of an attack whose result cannot be scored."""
    return AttackError(
        f"{type(attack).__name__} returned no sound reconstruction: expected {expected}; found {found}"
    )


def told(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return f"an object of type {type(value).__name__}"
