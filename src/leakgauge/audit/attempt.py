"""One run of an attack, ours or a user's own. What it returns is checked before anything reads it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from leakgauge.core import (
    Attack,
    AttackError,
    ChangedExamples,
    Cost,
    Defense,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    dtype_of,
    effects_of,
    nearest_examples,
    parts_of,
    unit_shape,
    within,
)
from leakgauge.core.verdicts import bounded, no_signal, nothing_found, of_the_trained, steady
from leakgauge.defenses.base import Undefended
from leakgauge.inversion.search.judgment import measured

MOVED = "the guess is the nearest valid examples to what the attack returned"
"""Note of a reconstruction that was rounded."""
LISTS = ("objectives", "course", "notes")
"""Fields of a reconstruction that hold several values each."""
BEFORE = "before rounding to valid examples: "
"""Begins the message of an attack whose result was rounded, as the message speaks of what the attack returned."""


UNDEFENDED = "it undoes a known defense, and the client has none"
"""Why an attack that requires knowledge of the defense cannot run on a client without one."""


def planned(
    attack: Attack, observation: Observation, defense: Defense | None
) -> Plan | Inapplicable:
    """Return the plan of an attack, ours or a user's own.

    Args:
        defense: the client's. A threat model that grants it has none to grant if it is None.

    Raises:
        AttackError: the attack returned something else than a plan or a reason.
    """
    if not observation.has_signal:
        return Plan(evaluations=0, search=lambda seeds, progress: no_signal(observation))
    if defense is None and "defense" in attack.requires:
        return Inapplicable(UNDEFENDED)
    # A user's own attack may draw from global generators: one audit seed gives one plan.
    with Seeds().alone("check"):
        plan = attack.plan(observation)
    if not isinstance(plan, Plan | Inapplicable):
        expected = "a Plan, or Inapplicable with the reason"
        raise AttackError(f"{type(attack).__name__}.plan: expected {expected}; found {told(plan)}")
    return plan


def attempt(
    attack: Attack,
    plan: Plan | Inapplicable,
    observation: Observation,
    count: int,
    defense: Defense | None = None,
    *,
    seeds: Seeds,
    progress: Progress,
) -> Reconstruction:
    """Return the reconstruction of a batch of `count` valid examples, with a status that its residual allows.

    A user's own attack need not derive from BaseAttack. It is held to the same promises here: its draws from global
    generators depend on `seeds` alone, its seconds are measured, and its residual is computed anew, as it is if
    rounding to valid examples moved them. Whatever the attack raises passes.

    Args:
        attack: what the plan is of.
        plan: the attack, ready to run on the observation, or why it cannot.
        defense: the client's. The adversary need not know it.

    Raises:
        AttackError: the attack returned something else than a sound reconstruction.
    """
    if isinstance(plan, Inapplicable):
        return nothing_found(observation, Status.INAPPLICABLE, plan.reason)
    clock = time.perf_counter()
    with seeds.alone("attack"):
        found = sound(attack, plan.run(seeds, within(progress, 0.0, 1.0)), observation, count)
        found = replace(found, cost=replace(found.cost, seconds=time.perf_counter() - clock))
        found = judged(attack, observation, found)
    return of_the_trained(found) if acts_on_examples(defense) else found


def judged(attack: Attack, observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return a sound reconstruction of valid examples, with a status that its residual allows."""
    valid = nearest_examples(observation.domain, found.inputs)
    moved = valid is not found.inputs and not torch.equal(valid, found.inputs)
    if moved:
        message = f"{BEFORE}{found.message}" if found.message else ""
        found = replace(found, notes=(*found.notes, MOVED), message=message)
    found = measured(attack, observation, replace(found, inputs=valid), moved=moved)
    return steady(observation, bounded(found))


def acts_on_examples(defense: Defense | None) -> bool:
    """Return whether the client may train on other examples than the private ones.

    A defense states it. One that states nothing, but has an `on_batch` of its own, may do anything there.
    """
    return bool(effects_of(defense, ChangedExamples)) or any(
        getattr(type(part), "on_batch", None) is not Undefended.on_batch
        for part in parts_of(defense)
    )


def sound(attack: Attack, found: Any, observation: Observation, count: int) -> Reconstruction:
    """Return `found` without a graph and on the CPU. Raise AttackError unless it is a sound reconstruction.

    It holds at least `count` guesses, one flag and at most one target for each. Guesses are examples of the domain, or
    what the model is given of its search space. Values are finite wherever it says that it has a guess. Only a search
    that diverged may hold others.
    """
    if not isinstance(found, Reconstruction):
        raise unsound(attack, "a Reconstruction", f"an object of type {type(found).__name__}")
    try:
        status = Status(found.status)
    except ValueError:
        raise unsound(attack, "a Status", repr(found.status)) from None
    if not isinstance(found.cost, Cost):
        raise unsound(attack, "a Cost", told(found.cost))
    for name in LISTS:
        if not isinstance(getattr(found, name), tuple | list):
            raise unsound(attack, f"{name} as a tuple", told(getattr(found, name)))
    inputs, flags = found.inputs, found.found
    domain = observation.domain
    exact = not dtype_of(domain).is_floating_point
    if not isinstance(inputs, Tensor) or not (
        inputs.is_floating_point() or (exact and inputs.dtype == dtype_of(domain))
    ):
        types = f"{dtype_of(domain)} or " if exact else ""
        raise unsound(attack, f"inputs as a tensor of {types}floating-point numbers", told(inputs))
    shape = domain.shape if inputs.dtype == dtype_of(domain) else unit_shape(domain)
    wanted = (max(count, len(inputs)) if inputs.ndim else count, *shape)
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
