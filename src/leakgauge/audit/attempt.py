"""One run of an attack, ours or a user's own. Its result is checked before anything reads it."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from leakgauge.core import (
    Attack,
    Defense,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    nearest_examples,
)
from leakgauge.core.verdicts import lower_if_changed, lower_if_unsteady, report_nothing_found
from leakgauge.inversion.search.claims import judge, plan_of, require_sound

MOVED = "the reconstruction was rounded to the nearest valid examples"
"""Note of a reconstruction that was rounded to valid examples."""
BEFORE = "before rounding to valid examples: "
"""Start of the message of an attack whose result was rounded. It describes the result before rounding."""


UNDEFENDED = "it needs a known defense to undo, and the client has no defense"
"""Reason why an attack that requires knowledge of the defense cannot run on a client without one."""


def make_plan(
    attack: Attack, observation: Observation, defense: Defense | None
) -> Plan | Inapplicable:
    """Return the plan of an attack, ours or a user's own.

    Args:
        attack: The attack.
        observation: What the adversary observes.
        defense: The client's defense. If it is None, a threat model cannot grant knowledge of it.

    Returns:
        The plan, or the reason why the attack cannot run.

    Raises:
        AttackError: The attack returned neither a plan nor a reason.
    """
    if observation.has_signal and defense is None and "defense" in attack.requires:
        return Inapplicable(UNDEFENDED)
    return plan_of(attack, observation)


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

    A user's own attack need not derive from BaseAttack, but the same rules apply here. Its draws from global generators
    depend on `seeds` alone. Its seconds are measured. Its residual is computed again, also after rounding to valid
    examples. Exceptions of the attack are not caught.

    Args:
        attack: The attack.
        plan: The plan of the attack, or the reason why it cannot run.
        observation: What the adversary observes.
        count: Number of examples B in the batch.
        defense: The client's defense. The adversary need not know it.
        seeds: Seeds of the attack.
        progress: Function that receives the progress of the attack.

    Raises:
        AttackError: The attack did not return a sound reconstruction.
    """
    if isinstance(plan, Inapplicable):
        return report_nothing_found(observation, Status.INAPPLICABLE, plan.reason)
    clock = time.perf_counter()
    with seeds.alone("attack"):
        found = require_sound(attack, plan.run(seeds, progress), observation, count)
        found = replace(found, cost=replace(found.cost, seconds=time.perf_counter() - clock))
        found = round_to_valid(attack, observation, found, count)
    return lower_if_changed(defense, found)


def round_to_valid(
    attack: Attack, observation: Observation, found: Reconstruction, count: int
) -> Reconstruction:
    """Return a sound reconstruction, rounded to valid examples, with a status that its new residual allows."""
    valid = nearest_examples(observation.domain, found.inputs)
    moved = valid is not found.inputs and not torch.equal(valid, found.inputs)
    if moved:
        message = f"{BEFORE}{found.message}" if found.message else ""
        found = replace(found, notes=(*found.notes, MOVED), message=message)
    found = judge(attack, observation, replace(found, inputs=valid), count, moved=moved)
    return lower_if_unsteady(observation, found)
