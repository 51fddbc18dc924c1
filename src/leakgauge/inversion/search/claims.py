"""What a user's own attack returns: it is checked, and judged on an observation that the attack never held."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from leakgauge.core import (
    Attack,
    AttackError,
    Inapplicable,
    LeakGaugeError,
    Observation,
    Plan,
    Reconstruction,
    Seeds,
    Status,
    copied,
    dtype_of,
    unit_shape,
)
from leakgauge.core.attack import named_failures
from leakgauge.core.origin import is_our_object, is_ours
from leakgauge.core.reconstruction import Cost, Snapshot
from leakgauge.core.verdicts import lower_status, lower_to_residual, report_no_signal
from leakgauge.inversion.search.judgment import residual_of, status_of

LISTS = ("objectives", "trajectory", "notes")
"""Fields of a reconstruction that hold several values each."""


def trusted(attack: object) -> bool:
    """Return whether an attack judges what it finds as the library does: ours, or one that judges its parts."""
    judges = is_our_object(attack) and getattr(type(attack), "judges_parts", False)
    return judges or is_ours(attack)


def copy_for_attack(observation: Observation) -> Observation:
    """Return a copy that shares no tensor with the observation, for an attack that may write to what it is given."""
    knowledge = observation.knowledge
    return replace(
        observation,
        model=copied(observation.model),
        loss=copied(observation.loss),
        training=copied(observation.training),
        update=observation.update.detached(),
        domain=copied(observation.domain),
        knowledge=replace(
            knowledge, **{f.name: copied(getattr(knowledge, f.name)) for f in fields(knowledge)}
        ),
    )


def plan_of(attack: Attack, observation: Observation) -> Plan | Inapplicable:
    """Return the plan of an attack. A user's own is given a copy of the observation.

    Raises:
        AttackError: the attack returned something else than a plan or a reason.
    """
    if not observation.has_signal:
        return Plan(evaluations=0, search=lambda seeds, progress: report_no_signal(observation))
    # A user's own attack may draw from global generators: one audit seed gives one plan.
    with Seeds().alone("check"):
        plan = attack.plan(observation if trusted(attack) else copy_for_attack(observation))
    if not isinstance(plan, Plan | Inapplicable):
        expected = "a Plan, or Inapplicable with the reason"
        raise AttackError(
            f"{type(attack).__name__}.plan: expected {expected}; found {describe(plan)}"
        )
    return plan


def judge(
    attack: object,
    observation: Observation,
    found: Reconstruction,
    count: int,
    *,
    moved: bool = False,
) -> Reconstruction:
    """Return a sound reconstruction with a residual that was computed here, and a status that it allows.

    A result of ours is only held to its own residual. Of a user's own attack nothing is believed: the residual is
    that of the inputs and targets that are returned, or None if they cannot be simulated. The diagnosis is dropped,
    since the Jacobian is not computed here.

    Args:
        count: how many examples the batch has.
        moved: whether the inputs were changed since the attack returned them. Then ours is simulated anew too.
    """
    if trusted(attack):
        if moved:
            found = _simulated(attack, observation, found, whole=bool(found.found.any()))
        return lower_to_residual(found)
    # More guesses than examples match an update more easily.
    whole = bool(found.found.all()) and len(found.inputs) == count
    found = lower_to_residual(
        _simulated(attack, observation, replace(found, diagnosis=None), whole=whole)
    )
    with named_failures(attack, "result"):
        return proven(observation, found)


def _simulated(
    attack: object, observation: Observation, found: Reconstruction, *, whole: bool
) -> Reconstruction:
    """Return the reconstruction with its residual, or with None unless it is a finite guess of the `whole` batch."""
    if not whole or not bool(torch.isfinite(found.inputs).all()):
        return replace(found, residual=None)
    try:
        # What a user's attack returns may fail in a model or a loss in any way that Python knows.
        with named_failures(attack, "residual"):
            residual = residual_of(observation, as_observed(observation, found))
    except LeakGaugeError as error:
        note = f"what was returned cannot be simulated: {error}"
        return replace(found, residual=None, notes=(*found.notes, note))
    if residual is not None and not residual < float("inf"):
        residual = None
    return replace(found, residual=residual)


def as_observed(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with inputs and targets of the types and on the device of the observation."""
    like, targets = observation.update.like, found.targets
    if targets is not None:
        real = targets.is_floating_point()
        targets = targets.to(like) if real else targets.to(like.device, torch.long)
    inputs = found.inputs
    exact = inputs.dtype == dtype_of(observation.domain) and not inputs.is_floating_point()
    return replace(
        found, inputs=inputs.to(like.device) if exact else inputs.to(like), targets=targets
    )


def proven(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return a claim of a user's own, certified only if the residual says something of every example."""
    if found.status is not Status.CERTIFIED:
        return found
    if invented(observation, found.targets):
        reason = (
            "its targets are free numbers that nobody granted, and other inputs with other targets "
            "match as well"
        )
    else:
        seen = as_observed(observation, found)
        unit = observation.domain.to_unit(seen.inputs)
        allowed = status_of(observation, unit, seen.targets, found.residual, proven=True)
        if allowed is Status.CERTIFIED:
            return found
        reason = "the update says too little of the example that moves it least"
    return lower_status(found, Status.CONVERGED, f"not certified: {reason}")


def invented(observation: Observation, targets: Tensor | None) -> bool:
    """Return whether targets (B, ...) are real numbers other than the granted ones, and no classes."""
    if targets is None or not targets.is_floating_point():
        return False
    granted = observation.knowledge.labels
    if granted is not None and granted.shape == targets.shape:
        return not torch.allclose(granted.cpu().to(targets), targets.cpu(), atol=1e-6)
    classes = observation.classes is not None and targets.ndim > 1
    hard = ((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all()
    return not (classes and bool(hard))


def require_sound(
    attack: object, found: Any, observation: Observation, count: int
) -> Reconstruction:
    """Return a copy of `found` without a graph, on the CPU. Raise AttackError unless it is a sound reconstruction.

    It holds at least `count` guesses, one flag and at most one target for each. Guesses are examples of the domain, or
    what the model is given of its search space. Values are finite wherever it says that it has a guess. Only a search
    that diverged may hold others.
    """
    if not isinstance(found, Reconstruction):
        raise unsound(attack, "a Reconstruction", f"an object of type {type(found).__name__}")
    # A subclass may answer another thing each time it is asked.
    values: Any = {f.name: getattr(found, f.name) for f in fields(Reconstruction)}
    found = Reconstruction(**values)
    try:
        status = Status(found.status)
    except ValueError:
        raise unsound(attack, "a Status", repr(found.status)) from None
    check_words(attack, found)
    inputs, flags = found.inputs, found.found
    domain = observation.domain
    exact = not dtype_of(domain).is_floating_point
    if not isinstance(inputs, Tensor) or not (
        inputs.is_floating_point() or (exact and inputs.dtype == dtype_of(domain))
    ):
        types = f"{dtype_of(domain)} or " if exact else ""
        raise unsound(
            attack, f"inputs as a tensor of {types}floating-point numbers", describe(inputs)
        )
    shape = domain.shape if inputs.dtype == dtype_of(domain) else unit_shape(domain)
    wanted = (max(count, len(inputs)) if inputs.ndim else count, *shape)
    if tuple(inputs.shape) != wanted:
        raise unsound(attack, f"inputs of shape {wanted}", describe(inputs))
    if (
        not isinstance(flags, Tensor)
        or flags.dtype != torch.bool
        or flags.shape != inputs.shape[:1]
    ):
        raise unsound(attack, f"found as {len(inputs)} flags", describe(flags))
    targets = found.targets
    if targets is not None and (
        not isinstance(targets, Tensor) or not targets.ndim or len(targets) != len(inputs)
    ):
        raise unsound(attack, f"targets for {len(inputs)} guesses, or None", describe(targets))
    if status is not Status.DIVERGED and not bool(torch.isfinite(inputs[flags]).all()):
        raise unsound(attack, "finite inputs", "NaN or infinity")
    plain: Reconstruction = replace(found, status=status)
    return plain.apart(torch.device("cpu"))


def check_words(attack: object, found: Reconstruction) -> None:
    """Raise AttackError unless message, notes, trajectory and cost of a reconstruction are of their kinds."""
    if not isinstance(found.message, str):
        raise unsound(attack, "a message as a string", describe(found.message))
    for name in LISTS:
        if not isinstance(getattr(found, name), tuple | list):
            raise unsound(attack, f"{name} as a tuple", describe(getattr(found, name)))
    if not all(
        isinstance(each, Snapshot) and isinstance(each.inputs, Tensor) for each in found.trajectory
    ):
        raise unsound(attack, "a trajectory as a tuple of snapshots", describe(found.trajectory))
    if not isinstance(found.cost, Cost) or not isinstance(found.cost.evaluations, int):
        raise unsound(attack, "a Cost with a whole number of evaluations", describe(found.cost))


def unsound(attack: object, expected: str, found: str) -> AttackError:
    """Return the error of an attack whose result cannot be scored."""
    return AttackError(
        f"{type(attack).__name__} returned no sound reconstruction: expected {expected}; found {found}"
    )


def describe(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return f"an object of type {type(value).__name__}"
