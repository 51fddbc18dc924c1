"""A recipe: a paper's attack, written as a composition of the parts in `inversion`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from leakgauge.attacks.labels import refused, settled
from leakgauge.core import BaseAttack, Cost, Observation, Progress, Reconstruction, Seeds, within
from leakgauge.core.verdicts import bounded
from leakgauge.inversion import GradientMatching
from leakgauge.inversion.search.judgment import residual_of


class Recipe(BaseAttack):
    """An Attack that is a `GradientMatching`. Subclasses are frozen dataclasses that override `matching`."""

    def matching(self) -> GradientMatching:
        """The composition that this recipe stands for."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return self.matching().requires

    def unsuited(self, observation: Observation) -> str | None:
        return refused(self.matching(), observation)

    def evaluations(self, observation: Observation) -> int:
        return self.matching().evaluations(observation)

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        return matched(self.matching(), observation, seeds, progress)


def matched(
    matching: GradientMatching, observation: Observation, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """What the matching finds with labels granted, else read first; the reading is in the time and in the notes."""
    clock = time.perf_counter()
    settling, notes = settled(matching, observation, seeds)
    before = time.perf_counter() - clock
    found = settling(observation, seeds=seeds, progress=progress)
    cost = replace(found.cost, seconds=found.cost.seconds + before)
    return replace(found, cost=cost, notes=(*notes, *found.notes))


def mended(
    attack: Recipe,
    observation: Observation,
    mend: Callable[[Tensor], tuple[Tensor, str]],
    *,
    seeds: Seeds,
    progress: Progress,
) -> Reconstruction:
    """Return what the attack finds, its inputs (B, *shape) in data units put through `mend`, with what `mend` says.

    Status and residual are those of the mended inputs: what is returned is what is judged.
    """
    clock = time.perf_counter()
    found = attack(observation, seeds=seeds, progress=within(progress, 0.0, 0.9))
    inputs, note = mend(found.inputs)
    # The snapshots and the diagnosis are of what was found before.
    after = replace(
        found,
        inputs=inputs.to(found.inputs),
        course=(),
        diagnosis=None,
        cost=Cost(found.cost.evaluations + 1, time.perf_counter() - clock),
        notes=(*found.notes, note),
    )
    residual = residual_of(observation, after)
    matched = "its update is not simulated"
    if residual is not None:
        matched = f"its update is {residual:.2g} of the norm away"
    return replace(
        bounded(replace(after, residual=residual)),
        message=f"{found.message}; {matched} after the last step",
    )
