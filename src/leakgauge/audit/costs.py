"""Estimates of the seconds that each job will take, from short measurements before an audit starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from leakgauge.audit.attempt import make_plan
from leakgauge.audit.case import Cell
from leakgauge.audit.failures import Failed, try_step
from leakgauge.audit.training import TrainingRun, seconds_of
from leakgauge.core import Attack, Defense, Inapplicable, Observation, Seeds, UserError, unit_shape
from leakgauge.federated.training.fedsgd import local_update
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.federated.training.withheld import is_withheld

Result = TypeVar("Result")


Seconds = float | None
"""Seconds, or None if they could not be measured."""


def training_costs(planned: Sequence[TrainingRun], seed: int) -> tuple[Seconds, ...]:
    """Return the estimated seconds of each training, measured once for each defense of a case.

    Raises:
        UserError: A mistake of the user that would end a training.
    """
    timed: dict[tuple[int, str], Seconds] = {}
    for run in planned:
        key = id(run.case), run.case.title(run.defense)
        if key not in timed:
            timed[key] = compute_or_none(partial(seconds_of, run, seed))
        elif run.defense is None:  # Each repeat splits the data again. The split may fail.
            run.parts(run.data(seed)[0], seed)
    return tuple(timed[id(run.case), run.case.title(run.defense)] for run in planned)


def costs(planned: Sequence[Cell], seed: int) -> tuple[Seconds, ...]:
    """Return the estimated seconds of each cell: the attack and its blind control.

    The estimate needs one timed evaluation of the cell's update, and one observation for each case, batch size and
    defense. The observation is that of the first repeat.

    Raises:
        UserError: A mistake of the user that shows in an observation.
    """
    steps: dict[tuple[int, int], Seconds] = {}
    found: dict[tuple[int, int, str], dict[int, Seconds]] = {}
    for cell in planned:
        key = id(cell.case), cell.batch_size
        if key not in steps:
            steps[key] = compute_or_none(partial(undefended_seconds, cell, seed))
        if _setting(cell) not in found:
            found[_setting(cell)] = costs_of_attacks(cell, steps[key], seed)
    return tuple(found[_setting(cell)][id(cell.attack)] for cell in planned)


def _setting(cell: Cell) -> tuple[int, int, str]:
    """Return a key of the case, batch size and defense of a cell."""
    return id(cell.case), cell.batch_size, cell.case.title(cell.defense)


def costs_of_attacks(cell: Cell, step: Seconds, seed: int) -> dict[int, Seconds]:
    """Return the estimated seconds of each attack on the update of `cell`, by the attack's id.

    Args:
        cell: A cell that has this update.
        step: Seconds of one simulated update and its derivative. None if they are unknown.
        seed: Root seed of the audit.
    """
    try:
        observation = compute_or_none(partial(observe_cell, cell, seed))
    except UserError as error:
        raise add_place(error, cell) from error

    def cost(attack: Attack) -> Seconds:
        if step is None or observation is None:
            return None
        return compute_or_none(lambda: 2 * step * evaluations(attack, observation, cell.defense))

    return {id(attack): cost(attack) for attack in cell.case.attacks}


def compute_or_none(compute: Callable[[], Result]) -> Result | None:
    """Return the result of `compute`, or None if it failed. The record of the job gives the reason later.

    Raises:
        UserError: The user can correct the mistake before anything runs.
    """
    found = try_step("plan", compute)
    if not isinstance(found, Failed):
        return found
    if isinstance(found.cause, UserError):
        raise found.cause
    return None


def add_place(error: UserError, cell: Cell) -> UserError:
    """Return the error with its case, defense and batch size in the message."""
    defense = "no defense" if cell.defense is None else cell.case.title(cell.defense)
    return type(error)(
        f"case {cell.case.name!r}, {defense}, batch of {cell.batch_size}: {error.where}",
        expected=error.expected,
        found=error.found,
        remedy=error.remedy,
    )


def observe_cell(cell: Cell, seed: int, *, defended: bool = True) -> Observation:
    """Return the observation of a cell in the first repeat, with or without the cell's defense."""
    first = replace(cell, repeat=0)
    case, seeds = cell.case, Seeds(seed).child(first.observation_path).child("observed")
    batch = case.batch(case.indices(cell.batch_size, 0, Seeds(seed).child(case.name))[0])
    client = case.client(cell.defense if defended else None)
    with client.shared():
        return case.threat.observe(client, batch, seeds=seeds)


def undefended_seconds(cell: Cell, seed: int) -> float:
    """Return the seconds of one simulated update without a defense, and of its derivative."""
    observation = observe_cell(cell, seed, defended=False)
    withheld = is_withheld(observation.training)
    timed = as_one_gradient(observation) if withheld else observation
    targets = cell.case.batch(range(cell.batch_size)).targets
    return step_seconds(timed, targets)


def evaluations(attack: Attack, observation: Observation, defense: Defense | None) -> int:
    """Return the number of simulated updates in an ordinary run of an attack, or 0 if it cannot run."""
    if not observation.has_signal:
        return 0
    plan = make_plan(attack, observation, defense)
    return 0 if isinstance(plan, Inapplicable) else plan.usual


def step_seconds(observation: Observation, targets: torch.Tensor) -> float:
    """Return the seconds of one simulated update and its derivative to the inputs. The first of two runs warms up."""
    seconds = 0.0
    for _ in range(2):
        clock = time.perf_counter()
        unit = torch.full((len(targets), *unit_shape(observation.domain)), 0.5, requires_grad=True)
        tensors = local_update(
            observation.training,
            observation.model,
            observation.loss,
            observation.domain.from_unit(unit),
            targets,
            create_graph=True,
        )
        value = torch.stack([t.square().sum() for t in tensors.values()]).sum()
        if value.requires_grad:
            # A loss without a second derivative still trains. Gradient matching reports it in the record.
            with suppress(RuntimeError):
                torch.autograd.grad(value, unit, materialize_grads=True, allow_unused=True)
        seconds = time.perf_counter() - clock
    return seconds
