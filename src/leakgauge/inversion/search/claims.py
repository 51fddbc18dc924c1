"""Results of a user's own attack: they are checked, and judged on an observation that the attack never held."""

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
    deep_copy,
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


def judges_itself(attack: object) -> bool:
    """Return whether the status of an attack's results is trusted.

    It is trusted if the attack and all its parts are ours. It is also trusted if the attack is ours
    and judges the results of its parts itself.
    """
    judges = is_our_object(attack) and getattr(type(attack), "judges_parts", False)
    return judges or is_ours(attack)


def copy_for_attack(observation: Observation) -> Observation:
    """Return a copy that shares no tensor with the observation, for an attack that may write to its input."""
    knowledge = observation.knowledge
    return replace(
        observation,
        model=deep_copy(observation.model),
        loss=deep_copy(observation.loss),
        training=deep_copy(observation.training),
        update=observation.update.detached(),
        domain=deep_copy(observation.domain),
        knowledge=replace(
            knowledge, **{f.name: deep_copy(getattr(knowledge, f.name)) for f in fields(knowledge)}
        ),
    )


def plan_of(attack: Attack, observation: Observation) -> Plan | Inapplicable:
    """Return the plan of an attack. A user's own attack gets a copy of the observation.

    Args:
        attack: The attack.
        observation: The observation.

    Raises:
        AttackError: The attack returned neither a plan nor a reason.
    """
    if not observation.has_signal:
        return Plan(evaluations=0, search=lambda seeds, progress: report_no_signal(observation))
    # A user's own attack may draw from global generators. Here it always draws the same numbers.
    with Seeds().alone("check"):
        plan = attack.plan(observation if judges_itself(attack) else copy_for_attack(observation))
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
    """Return a sound reconstruction with a status that its residual allows.

    A result of our attacks keeps its residual, and its status is lowered to what this residual
    allows. No claim of a user's own attack is trusted. Its residual is computed anew from the
    returned inputs and targets, or is None if they cannot be simulated. Its diagnosis is dropped,
    since no Jacobian is computed here.

    Args:
        attack: The attack that returned the reconstruction.
        observation: The observation, which the attack never held.
        found: The reconstruction.
        count: Number of examples of the batch.
        moved: Whether the inputs were changed since the attack returned them. Then the residual of
            our attacks is computed again too.
    """
    if judges_itself(attack):
        if moved:
            found = _simulated(attack, observation, found, whole=bool(found.found.any()))
        return lower_to_residual(found)
    # A batch with more examples than the true one matches an update more easily.
    whole = bool(found.found.all()) and len(found.inputs) == count
    found = lower_to_residual(
        _simulated(attack, observation, replace(found, diagnosis=None), whole=whole)
    )
    with named_failures(attack, "result"):
        return keep_if_proven(observation, found)


def _simulated(
    attack: object, observation: Observation, found: Reconstruction, *, whole: bool
) -> Reconstruction:
    """Return the reconstruction with its residual, or with None if the batch is not `whole` or not finite."""
    if not whole or not bool(torch.isfinite(found.inputs).all()):
        return replace(found, residual=None)
    try:
        # Values from a user's attack may fail in a model or a loss with any exception.
        with named_failures(attack, "residual"):
            residual = residual_of(observation, as_observed(observation, found))
    except LeakGaugeError as error:
        note = f"the returned batch cannot be simulated: {error}"
        return replace(found, residual=None, notes=(*found.notes, note))
    if residual is not None and not residual < float("inf"):
        residual = None
    return replace(found, residual=residual)


def as_observed(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with inputs and targets of the observation's types, on its device."""
    like, targets = observation.update.like, found.targets
    if targets is not None:
        real = targets.is_floating_point()
        targets = targets.to(like) if real else targets.to(like.device, torch.long)
    inputs = found.inputs
    exact = inputs.dtype == dtype_of(observation.domain) and not inputs.is_floating_point()
    return replace(
        found, inputs=inputs.to(like.device) if exact else inputs.to(like), targets=targets
    )


def keep_if_proven(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return the result of a user's own attack, certified only if the residual determines every example."""
    if found.status is not Status.CERTIFIED:
        return found
    if has_invented_targets(observation, found.targets):
        reason = (
            "its targets are free numbers that were not granted, and other inputs with other "
            "targets match the update too"
        )
    else:
        result = as_observed(observation, found)
        unit = observation.domain.to_unit(result.inputs)
        allowed = status_of(observation, unit, result.targets, found.residual, proven=True)
        if allowed is Status.CERTIFIED:
            return found
        reason = (
            "the example that contributes least to the update is not determined precisely enough"
        )
    return lower_status(found, Status.CONVERGED, f"not certified: {reason}")


def has_invented_targets(observation: Observation, targets: Tensor | None) -> bool:
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
    """Return a copy of `found` without a graph, on the CPU.

    A sound reconstruction holds at least `count` examples, one flag and at most one target for
    each. The examples are in the domain or in its search space. Values are finite for each example
    that is flagged as found. Only a search that diverged may hold other values.

    Args:
        attack: The attack that returned the reconstruction.
        found: The returned object.
        observation: The observation.
        count: Number of examples of the batch.

    Raises:
        AttackError: The object is not a sound reconstruction.
    """
    if not isinstance(found, Reconstruction):
        raise unsound_result(
            attack, "a Reconstruction", f"an object of type {type(found).__name__}"
        )
    # A subclass may return other values at each access, so each field is read once.
    values: Any = {f.name: getattr(found, f.name) for f in fields(Reconstruction)}
    found = Reconstruction(**values)
    try:
        status = Status(found.status)
    except ValueError:
        raise unsound_result(attack, "a Status", repr(found.status)) from None
    check_words(attack, found)
    inputs, flags = found.inputs, found.found
    domain = observation.domain
    exact = not dtype_of(domain).is_floating_point
    if not isinstance(inputs, Tensor) or not (
        inputs.is_floating_point() or (exact and inputs.dtype == dtype_of(domain))
    ):
        types = f"{dtype_of(domain)} or " if exact else ""
        raise unsound_result(
            attack, f"inputs as a tensor of {types}floating-point numbers", describe(inputs)
        )
    shape = domain.shape if inputs.dtype == dtype_of(domain) else unit_shape(domain)
    wanted = (max(count, len(inputs)) if inputs.ndim else count, *shape)
    if tuple(inputs.shape) != wanted:
        raise unsound_result(attack, f"inputs of shape {wanted}", describe(inputs))
    if (
        not isinstance(flags, Tensor)
        or flags.dtype != torch.bool
        or flags.shape != inputs.shape[:1]
    ):
        raise unsound_result(attack, f"found as {len(inputs)} flags", describe(flags))
    targets = found.targets
    if targets is not None and (
        not isinstance(targets, Tensor) or not targets.ndim or len(targets) != len(inputs)
    ):
        raise unsound_result(
            attack, f"targets for {len(inputs)} examples, or None", describe(targets)
        )
    if status is not Status.DIVERGED and not bool(torch.isfinite(inputs[flags]).all()):
        raise unsound_result(attack, "finite inputs", "NaN or infinity")
    plain: Reconstruction = replace(found, status=status)
    return plain.apart(torch.device("cpu"))


def check_words(attack: object, found: Reconstruction) -> None:
    """Raise AttackError if message, notes, trajectory or cost of a reconstruction have a wrong type."""
    if not isinstance(found.message, str):
        raise unsound_result(attack, "a message as a string", describe(found.message))
    for name in LISTS:
        if not isinstance(getattr(found, name), tuple | list):
            raise unsound_result(attack, f"{name} as a tuple", describe(getattr(found, name)))
    if not all(
        isinstance(each, Snapshot) and isinstance(each.inputs, Tensor) for each in found.trajectory
    ):
        raise unsound_result(
            attack, "a trajectory as a tuple of snapshots", describe(found.trajectory)
        )
    if not isinstance(found.cost, Cost) or not isinstance(found.cost.evaluations, int):
        raise unsound_result(
            attack, "a Cost with a whole number of evaluations", describe(found.cost)
        )


def unsound_result(attack: object, expected: str, found: str) -> AttackError:
    """Return the error for an attack whose result cannot be scored."""
    return AttackError(
        f"{type(attack).__name__} returned no sound reconstruction: expected {expected}; found {found}"
    )


def describe(value: Any) -> str:
    """Return the type of a value, and its shape if it is a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return f"an object of type {type(value).__name__}"
