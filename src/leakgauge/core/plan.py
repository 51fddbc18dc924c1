"""Plans: an attack that is ready to run on one observation, or the reason why it cannot run."""

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
    run_with_progress,
    silent,
)
from leakgauge.core.ranges import check_made
from leakgauge.core.reconstruction import Reconstruction
from leakgauge.core.seeds import Seeds, isolate_draws

Search = Callable[[Seeds, Progress], Reconstruction]
"""A search on one observation: a function from seeds and a callback to a reconstruction."""


@dataclass(frozen=True)
class Inapplicable:
    """The reason, in one line, why an attack or a method cannot run on an observation.

    An attack returns it instead of a plan. It is a result, not an error.

    Args:
        reason: The reason, as text of exactly one line.

    Raises:
        AttackError: The reason is not text, or not exactly one line.

    Example:
        >>> import leakgauge as lg
        >>> print(lg.Inapplicable("needs one gradient"))
        needs one gradient
    """

    reason: str

    def __post_init__(self) -> None:
        """Raise AttackError unless the reason is text of one line."""
        check_made(self)
        if len(self.reason.splitlines()) != 1:
            raise AttackError(
                f"Inapplicable.reason: expected one line; found {len(self.reason.splitlines())} lines; "
                "join them"
            )

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An attack that is ready to run on one observation.

    `Attack.plan` returns it. Call `run` for the reconstruction. Start one run at a time in a
    process. While a run simulates, it replaces parts of the model and of torch. Two threads would
    disturb each other. Use processes instead.

    Args:
        evaluations: Largest number of simulated updates that a run computes, at least 0.
        search: The search itself. An attack that contains another attack calls this `search` of the
            inner plan. StopAttack then ends both.
        nothing: Builds the reconstruction of a run that is stopped before it has one. With None,
            the default, StopAttack is raised.
        expected: Number of simulated updates of an ordinary run. An audit estimates its time from
            this number. None, the default, is `evaluations`.

    Raises:
        AttackError: A field is of another kind or out of range.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> plan = lg.attacks.InvertingGradients(steps=20).plan(observation)
        >>> plan.run(lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    evaluations: Evaluations
    search: Search
    nothing: Callable[[], Reconstruction] | None = None
    expected: Evaluations | None = None

    def __post_init__(self) -> None:
        """Raise AttackError if a field is of another kind or out of range."""
        check_made(self)

    @property
    def usual(self) -> Evaluations:
        """Number of simulated updates of an ordinary run."""
        return self.evaluations if self.expected is None else self.expected

    def run(self, seeds: Seeds, progress: Progress = silent) -> Reconstruction:
        """Run the search and return the reconstruction.

        Args:
            seeds: The source of all random draws of the search.
            progress: A callback that receives the moments of the search. If it raises StopAttack,
                the best reconstruction so far is returned. Every other exception that it raises
                reaches the caller unchanged.

        Raises:
            AttackError: The search failed on the model or the loss, or passed an invalid moment to
                its callback.
            StopAttack: The callback raised it before there was a reconstruction, and the plan has
                no `nothing`.
        """
        return run_with_progress(progress, partial(self._run, seeds), passing=(StopAttack,))

    def _run(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the reconstruction of a run, or the best so far if the run is stopped."""
        clock, last = time.perf_counter(), Moment(0.0)

        def tell(moment: Moment) -> None:
            """Check a moment, store it as `last`, and forward it to the callback."""
            nonlocal last
            check_moment(moment, last)
            last = moment
            # The callback may draw random numbers. Building the best reconstruction may draw some
            # too. The draws of the search must not depend on them.
            with isolate_draws():
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
