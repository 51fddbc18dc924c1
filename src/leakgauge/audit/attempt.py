"""One run of an attack, ours or a user's own. What it returns is checked before anything reads it."""

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

MOVED = "the guess is the nearest valid examples to what the attack returned"
"""Note of a reconstruction that was rounded."""
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
        return report_nothing_found(observation, Status.INAPPLICABLE, plan.reason)
    clock = time.perf_counter()
    with seeds.alone("attack"):
        found = require_sound(attack, plan.run(seeds, progress), observation, count)
        found = replace(found, cost=replace(found.cost, seconds=time.perf_counter() - clock))
        found = rounded(attack, observation, found, count)
    return lower_if_changed(defense, found)


def rounded(
    attack: Attack, observation: Observation, found: Reconstruction, count: int
) -> Reconstruction:
    """Return a sound reconstruction of valid examples, with a status that its residual allows."""
    valid = nearest_examples(observation.domain, found.inputs)
    moved = valid is not found.inputs and not torch.equal(valid, found.inputs)
    if moved:
        message = f"{BEFORE}{found.message}" if found.message else ""
        found = replace(found, notes=(*found.notes, MOVED), message=message)
    found = judge(attack, observation, replace(found, inputs=valid), count, moved=moved)
    return lower_if_unsteady(observation, found)
