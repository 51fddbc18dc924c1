"""An attack inside another one."""

from __future__ import annotations

from leakgauge.core import (
    Attack,
    Inapplicable,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.verdicts import nothing_found


def search_inside(
    attack: Attack, observation: Observation, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Return the reconstruction of an attack that only the search of another one could compose.

    StopAttack ends both. An attack that cannot run returns the status INAPPLICABLE.
    """
    plan = attack.plan(observation)
    if isinstance(plan, Inapplicable):
        return nothing_found(observation, Status.INAPPLICABLE, plan.reason)
    return plan.search(seeds, progress)
