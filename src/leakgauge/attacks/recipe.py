"""A recipe: a paper's attack, written as a composition of the parts in `inversion`."""

from __future__ import annotations

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
        return self.matching().inapplicable(observation)

    def evaluations(self, observation: Observation) -> int:
        return self.matching().evaluations(observation)

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        return self.matching()(observation, seeds=seeds, progress=progress)
