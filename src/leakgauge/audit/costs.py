"""About how many seconds each unit of work will take: measured in small before an audit starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import torch

from leakgauge.audit.case import Cell
from leakgauge.audit.training import TrainingRun, seconds_of
from leakgauge.core import Observation, Seeds
from leakgauge.federated.local_steps import as_one_gradient
from leakgauge.federated.withheld import untold


def training_costs(planned: Sequence[TrainingRun], seed: int) -> tuple[float, ...]:
    """Seconds of each training, measured once for each defense. Raises what trainings would raise."""
    timed: dict[tuple[int, str], float] = {}
    for run in planned:
        key = id(run.case), repr(run.defense)
        if key not in timed:
            timed[key] = seconds_of(run, seed)
        elif run.defense is None:  # another repeat, with its own way to share the data out
            run.parts(run.data(seed)[0], seed)
    return tuple(timed[id(run.case), repr(run.defense)] for run in planned)


def costs(planned: Sequence[Cell], seed: int) -> tuple[float, ...]:
    """Seconds of each cell, attack and blind control, from one timed evaluation of its update."""
    timed: dict[tuple[int, int], tuple[Observation, float]] = {}
    found = []
    for cell in planned:
        key = id(cell.case), cell.batch_size
        if key not in timed:
            batch = cell.case.batch(cell.case.indices(cell.batch_size, 0, Seeds(seed))[0])
            observation = cell.case.threat.observe(
                cell.case.client(), batch, seeds=Seeds(seed).child("plan")
            )
            held = untold(observation.training)
            timely = as_one_gradient(observation) if held else observation
            timed[key] = observation, step_seconds(timely, batch.targets)
        observation, step = timed[key]
        able = cell.attack.inapplicable(observation) is None
        found.append(2 * step * cell.attack.evaluations(observation) if able else 0.0)
    return tuple(found)


def step_seconds(observation: Observation, targets: torch.Tensor) -> float:
    """Seconds of one simulated update and its derivative to the inputs; the second of two counts."""
    seconds = 0.0
    for _ in range(2):
        clock = time.perf_counter()
        unit = torch.full((len(targets), *observation.domain.shape), 0.5, requires_grad=True)
        tensors = observation.training(
            observation.model,
            observation.loss,
            observation.domain.from_unit(unit),
            targets,
            create_graph=True,
        )
        value = torch.stack([t.square().sum() for t in tensors.values()]).sum()
        if value.requires_grad:
            # A loss without a second derivative still trains; gradient matching says so itself.
            with suppress(RuntimeError):
                torch.autograd.grad(value, unit, materialize_grads=True, allow_unused=True)
        seconds = time.perf_counter() - clock
    return seconds
