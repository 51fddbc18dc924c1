"""Attacks on examples that a defense changed. The changes are undone after the attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from leakgauge.core import (
    Attack,
    Cost,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    scale_progress,
)
from leakgauge.core.verdicts import lower_to_residual
from leakgauge.inversion.search.judgment import residual_of

Mend = Callable[[Tensor], tuple[Tensor, str]]
"""Take changed inputs `(B, *shape)` in data units. Return them without the defense's changes, and a note."""


def plan_mended(attack: Attack, observation: Observation, mend: Mend) -> Plan | Inapplicable:
    """Return the plan of `attack`, followed by `mend`, or the reason why it cannot run."""
    plan = attack.plan(observation)
    if isinstance(plan, Inapplicable):
        return plan

    def mended(found: Reconstruction) -> Reconstruction:
        return mend_inputs(observation, found, mend)

    def search(seeds: Seeds, progress: Progress) -> Reconstruction:
        return mended(plan.search(seeds, scale_progress(progress, 0.0, 0.9, finish=mended)))

    # One more evaluation compares the update of the mended inputs.
    return Plan(evaluations=plan.evaluations + 1, search=search)


def mend_inputs(observation: Observation, found: Reconstruction, mend: Mend) -> Reconstruction:
    """Return the reconstruction with mended inputs. Its status and residual are those of the mended inputs."""
    inputs, note = mend(found.inputs)
    # The snapshots and the diagnosis describe the inputs before mending.
    after = replace(
        found,
        inputs=inputs.to(found.inputs),
        trajectory=(),
        diagnosis=None,
        cost=Cost(found.cost.evaluations + 1),
        notes=(*found.notes, note),
    )
    residual = residual_of(observation, after)
    matched = "the update of the mended inputs was not simulated"
    if residual is not None:
        matched = f"the mended inputs match the update to {residual:.2g} of its norm"
    return replace(
        lower_to_residual(replace(after, residual=residual)),
        message=f"{found.message}; {matched}",
    )
