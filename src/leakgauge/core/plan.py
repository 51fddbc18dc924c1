"""An attack that has looked at an observation: ready to run, or the reason why it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from leakgauge.core.progress import Moment, Progress, StopAttack, silent
from leakgauge.core.reconstruction import Reconstruction
from leakgauge.core.seeds import Seeds

Search = Callable[[Seeds, Progress], Reconstruction]
"""A search on one observation: seeds and a callback in, a reconstruction out."""


@dataclass(frozen=True)
class Inapplicable:
    """The reason, in one line, why an attack or a method cannot run on an observation. It is no error."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An attack that is ready to run on one observation.

    Args:
        evaluations: the largest number of simulated updates that a run computes.
        search: the search itself. An attack that contains another one calls its `search`, so that StopAttack
            ends them both.
        nothing: the reconstruction of a run that is stopped before it has one.
    """

    evaluations: int
    search: Search
    nothing: Callable[[], Reconstruction] | None = None

    def run(self, seeds: Seeds, progress: Progress = silent) -> Reconstruction:
        """Return a reconstruction of the batch: the best so far if `progress` raises StopAttack.

        Raises:
            AttackError: the search failed on the model or the loss.
            StopAttack: it was raised before there was a reconstruction, and the plan has no `nothing`.
        """
        clock, last = time.perf_counter(), Moment(0.0)

        def watched(moment: Moment) -> None:
            nonlocal last
            last = moment
            progress(moment)

        try:
            return self.search(seeds, watched)
        except StopAttack:
            best = last.best or self.nothing
            if best is None:
                raise
            found = best()
        done = f"stopped at {last.fraction:.0%}, after {last.evaluations} of {self.evaluations} evaluations"
        cost = replace(
            found.cost, evaluations=last.evaluations, seconds=time.perf_counter() - clock
        )
        message = f"{found.message}; {done}".removeprefix("; ")
        return replace(found, message=message, cost=cost)
