"""An attack that has looked at an observation: ready to run, or the reason why it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from leakgauge.core.errors import AttackError
from leakgauge.core.progress import (
    Evaluations,
    Moment,
    Progress,
    StopAttack,
    check_moment,
    silent,
    watched,
)
from leakgauge.core.ranges import check_made
from leakgauge.core.reconstruction import Reconstruction
from leakgauge.core.seeds import Seeds, apart

Search = Callable[[Seeds, Progress], Reconstruction]
"""A search on one observation: seeds and a callback in, a reconstruction out."""


@dataclass(frozen=True)
class Inapplicable:
    """The reason, in one line, why an attack or a method cannot run on an observation. It is no error.

    Raises:
        AttackError: the reason is no text of one line.
    """

    reason: str

    def __post_init__(self) -> None:
        check_made(self)
        if len(self.reason.splitlines()) != 1:
            raise AttackError(
                f"Inapplicable.reason: expected one line; found {len(self.reason.splitlines())} lines"
            )

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An attack that is ready to run on one observation.

    A plan runs once at a time. A run replaces parts of the model and of torch while it simulates, so that two runs in
    two threads disturb each other. Use processes.

    Args:
        evaluations: the largest number of simulated updates that a run computes, at least 0.
        search: the search itself. An attack that contains another one calls its `search`, so that StopAttack
            ends them both.
        nothing: the reconstruction of a run that is stopped before it has one.
        expected: evaluations of an ordinary run, from which an audit estimates its time. None: the largest number.

    Raises:
        AttackError: a field is of another kind or out of range.
    """

    evaluations: Evaluations
    search: Search
    nothing: Callable[[], Reconstruction] | None = None
    expected: Evaluations | None = None

    def __post_init__(self) -> None:
        check_made(self)

    @property
    def usual(self) -> Evaluations:
        """Return the evaluations of an ordinary run."""
        return self.evaluations if self.expected is None else self.expected

    def run(self, seeds: Seeds, progress: Progress = silent) -> Reconstruction:
        """Return a reconstruction of the batch: the best so far if `progress` raises StopAttack.

        Every other exception of `progress` leaves as it was raised.

        Raises:
            AttackError: the search failed on the model or the loss, or told moments that are none.
            StopAttack: it was raised before there was a reconstruction, and the plan has no `nothing`.
        """
        return watched(progress, partial(self._run, seeds), passing=(StopAttack,))

    def _run(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the reconstruction of a run, or the best so far if it is stopped."""
        clock, last = time.perf_counter(), Moment(0.0)

        def tell(moment: Moment) -> None:
            nonlocal last
            check_moment(moment, last)
            last = moment
            # A watcher may draw, and so may the best that it asks for: the search goes on as without it.
            with apart():
                progress(moment)

        try:
            return self.search(seeds, tell)
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
