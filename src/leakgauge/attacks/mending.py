"""An attack on what a defense made of the examples, and its result mended afterwards."""

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
    within,
)
from leakgauge.core.verdicts import lower_to_residual
from leakgauge.inversion.search.judgment import residual_of

Mend = Callable[[Tensor], tuple[Tensor, str]]
"""Return inputs (B, *shape) in data units without the defense's changes, and a note for the record."""


def plan_mended(attack: Attack, observation: Observation, mend: Mend) -> Plan | Inapplicable:
    """Return the plan of `attack` with its inputs mended at the end, or the reason why it cannot run."""
    plan = attack.plan(observation)
    if isinstance(plan, Inapplicable):
        return plan

    def mended(found: Reconstruction) -> Reconstruction:
        return mend_inputs(observation, found, mend)

    def search(seeds: Seeds, progress: Progress) -> Reconstruction:
        return mended(plan.search(seeds, within(progress, 0.0, 0.9, finish=mended)))

    # The mended inputs are simulated once.
    return Plan(evaluations=plan.evaluations + 1, search=search)


def mend_inputs(observation: Observation, found: Reconstruction, mend: Mend) -> Reconstruction:
    """Return the reconstruction with mended inputs. Status and residual are those of the inputs that are returned."""
    inputs, note = mend(found.inputs)
    # The snapshots and the diagnosis are of the inputs before.
    after = replace(
        found,
        inputs=inputs.to(found.inputs),
        trajectory=(),
        diagnosis=None,
        cost=Cost(found.cost.evaluations + 1),
        notes=(*found.notes, note),
    )
    residual = residual_of(observation, after)
    matched = "its update is not simulated"
    if residual is not None:
        matched = f"its update is {residual:.2g} of the norm away"
    return replace(
        lower_to_residual(replace(after, residual=residual)),
        message=f"{found.message}; {matched} after the last step",
    )
