"""A recipe: a paper's attack, written as a composition of the parts in `inversion`."""

from __future__ import annotations

import time
from dataclasses import replace

from leakgauge.attacks.labels import refused, settled
from leakgauge.core import Observation, Progress, Reconstruction, Seeds, silent
from leakgauge.inversion import GradientMatching


class Recipe:
    """An Attack that is a `GradientMatching`. Subclasses are frozen dataclasses that override `matching`."""

    def matching(self) -> GradientMatching:
        """The composition that this recipe stands for."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return self.matching().requires

    def inapplicable(self, observation: Observation) -> str | None:
        return refused(self.matching(), observation)

    def evaluations(self, observation: Observation) -> int:
        return self.matching().evaluations(observation)

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        return matched(self.matching(), observation, seeds, progress)


def matched(
    matching: GradientMatching, observation: Observation, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """What the matching finds with labels granted, else read first; the reading is in the time and in the notes."""
    observation.require(matching)
    clock = time.perf_counter()
    settling, notes = settled(matching, observation, seeds)
    before = time.perf_counter() - clock
    found = settling(observation, seeds=seeds, progress=progress)
    cost = replace(found.cost, seconds=found.cost.seconds + before)
    return replace(found, cost=cost, notes=(*notes, *found.notes))
