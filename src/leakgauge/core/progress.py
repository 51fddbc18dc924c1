"""What an attack under way tells: how far it is, its objective, and the best reconstruction so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from annotated_types import Ge, Le

from leakgauge.core.errors import AttackError
from leakgauge.core.ranges import check_made
from leakgauge.core.reconstruction import Reconstruction

Result = TypeVar("Result")
Evaluations = Annotated[int, Ge(0)]
"""A number of simulated updates."""
Best = Callable[[], Reconstruction]
"""Return the best reconstruction so far. It is built when it is asked for, since that costs a simulated update."""


@dataclass(frozen=True)
class Moment:
    """One moment of an attack under way.

    Args:
        fraction: the part of the work that is done, in [0, 1]. It never falls.
        evaluations: simulated updates so far.
        objective: the attacker's own objective at `best`. None if the attack has none, or chooses between its
            results by another measure.
        best: builds the best reconstruction so far. None as long as there is none. Ask at once: it builds from the
            state of the search at the time of the call, so that a moment that was kept gives a later one.

    Raises:
        AttackError: a field is of another kind or out of range.
    """

    fraction: Annotated[float, Ge(0), Le(1)]
    evaluations: Evaluations = 0
    objective: float | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        # A moment is made at every evaluation: fields of the usual kinds pass without a look at annotations.
        usual = (
            type(self.fraction) is float
            and 0 <= self.fraction <= 1
            and type(self.evaluations) is int
            and self.evaluations >= 0
            and (self.objective is None or type(self.objective) is float)
            and (self.best is None or callable(self.best))
        )
        if not usual or self.objective != self.objective:
            check_made(self)


ROUNDING = 1e-9
"""Largest fall of a fraction that counts as rounding of its parts."""
Progress = Callable[[Moment], None]
"""A callback that an attack calls from time to time. It may raise StopAttack to end the attack there."""


class StopAttack(Exception):
    """Raised by a `Progress` callback to end an attack. `Plan.run` then returns the best reconstruction so far."""


class WatcherError(BaseException):
    """A callback failed. That is its caller's own: no attack and no cell is to blame.

    It is no Exception, so that it passes the handlers between the callback and the caller.
    """

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(cause)


def watched(
    progress: Progress,
    run: Callable[[Progress], Result],
    *,
    passing: tuple[type[Exception], ...] = (),
) -> Result:
    """Return what `run` returns, given a callback that tells `progress`.

    What `progress` raises passes all handlers within `run`, and leaves here as it was raised.

    Args:
        passing: the exceptions of `progress` that `run` is to see.
    """
    failures: list[WatcherError] = []

    def told(moment: Moment) -> None:
        try:
            progress(moment)
        except passing:
            raise
        except Exception as error:
            failures.append(WatcherError(error))
            raise failures[-1] from error

    try:
        return run(told)
    except WatcherError as failure:
        if failure not in failures:
            raise
        cause = failure.cause
    # Raised here, and not in the handler, so that it keeps its own context.
    raise cause


def silent(moment: Moment) -> None:
    """Show nothing."""


def within(
    progress: Progress,
    start: float,
    fraction: float,
    *,
    evaluations: int = 0,
    finish: Callable[[Reconstruction], Reconstruction] | None = None,
    best: Best | None = None,
    objective: Callable[[float | None], float | None] | None = None,
) -> Progress:
    """Return the callback of a part of an attack.

    Args:
        progress: the callback of the whole attack.
        start: the fraction of the whole that is done before the part, in [0, 1].
        fraction: the fraction of the whole that the part takes, in [0, 1].
        evaluations: simulated updates before the part.
        finish: makes a reconstruction of the whole from one of the part. By default they are the same.
        best: the best reconstruction before the part, told as long as the part has none.
        objective: the objective at the best of the whole, from that of the part. By default they are the same. An
            attack whose `finish` may return another reconstruction than that of the part gives one.
    """

    def tell(moment: Moment) -> None:
        check_moment(moment)
        found, inner = best, moment.best
        if inner is not None:
            found = inner if finish is None else lambda: finish(inner())
        shown = None if found is None else partial(_apart, found)
        progress(
            Moment(
                # Parts of the whole may round up.
                fraction=min(1.0, start + fraction * moment.fraction),
                evaluations=evaluations + moment.evaluations,
                objective=moment.objective if objective is None else objective(moment.objective),
                best=shown,
            )
        )

    return tell


def no_objective(objective: float | None) -> None:
    """Return None: the objective of an attack that chooses between results by another measure."""


def check_moment(moment: object, before: Moment | None = None) -> None:
    """Raise AttackError unless an attack told a Moment whose fraction is not below that of the moment before."""
    if not isinstance(moment, Moment):
        raise AttackError(
            f"progress: expected a Moment; found an object of type {type(moment).__name__}"
        )
    if before is not None and moment.fraction < before.fraction - ROUNDING:
        raise AttackError(
            f"progress: expected fractions that never fall; found {moment.fraction:g} after "
            f"{before.fraction:g}"
        )


def _apart(best: Best) -> Reconstruction:
    """Return a reconstruction that shares no memory with the search, which goes on whatever a watcher writes to it."""
    found = best()
    if not isinstance(found, Reconstruction):
        raise AttackError(
            f"best of a moment: expected a Reconstruction; found an object of type {type(found).__name__}"
        )
    return found.apart()
