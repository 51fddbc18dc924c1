"""Progress of a running attack: the part that is done, the objective, and the best reconstruction so far."""

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
"""A function that builds the best reconstruction so far. Each call costs a simulated update."""


@dataclass(frozen=True)
class Moment:
    """One moment of a running attack, which a progress callback receives.

    Use it to show how far an attack is, or to stop it early.

    Args:
        fraction: Fraction of the work that is done, in [0, 1]. It never falls during an attack.
        evaluations: Number of simulated updates so far, at least 0.
        objective: The attacker's own objective at `best`. None if the attack has none, or if it
            chooses between its results by another measure.
        best: Builds the best reconstruction so far. None if there is none yet. Call it before the
            callback returns, since it reads the state of the search at the time of the call. A call
            after that returns a later reconstruction.

    Raises:
        AttackError: A field is of another kind or out of range.

    Example:
        >>> import leakgauge as lg
        >>> moments: list[lg.Moment] = []
        >>> plan = lg.attacks.InvertingGradients(steps=20).plan(lg.examples.observation())
        >>> found = plan.run(lg.Seeds(0), moments.append)
        >>> moments[-1].fraction
        1.0
    """

    fraction: Annotated[float, Ge(0), Le(1)]
    evaluations: Evaluations = 0
    objective: float | None = None
    best: Best | None = None

    def __post_init__(self) -> None:
        """Raise AttackError if a field is of another kind or out of range."""
        # A moment is made at every evaluation. If all fields are of the usual kinds, this quick
        # test avoids the slow check of annotations.
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
"""Largest decrease of a fraction that counts as a rounding error of its parts."""
Progress = Callable[[Moment], None]
"""A callback that an attack calls from time to time. It may raise StopAttack to end the attack."""


class StopAttack(Exception):
    """Raise it in a progress callback to end an attack.

    `Plan.run` then returns the best reconstruction so far.

    Example:
        >>> import leakgauge as lg
        >>> def stop(moment: lg.Moment) -> None:
        ...     if moment.best is not None:
        ...         raise lg.StopAttack
        >>> plan = lg.attacks.InvertingGradients(steps=20).plan(lg.examples.observation())
        >>> "stopped at" in plan.run(lg.Seeds(0), stop).message
        True
    """


class WatcherError(BaseException):
    """A progress callback failed.

    The fault is the caller's, so no attack and no cell is blamed. The class derives from
    BaseException, because no handler between the callback and the caller must catch it.

    Args:
        cause: The exception that the callback raised.
    """

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(cause)


def run_with_progress(
    progress: Progress,
    run: Callable[[Progress], Result],
    *,
    passing: tuple[type[Exception], ...] = (),
) -> Result:
    """Return the result of `run`, called with a callback that forwards to `progress`.

    An exception of `progress` passes all handlers inside `run`. It reaches the caller of this
    function unchanged.

    Args:
        progress: The callback of the caller.
        run: The function to call.
        passing: Classes of exceptions of `progress` that `run` may catch.
    """
    failures: list[WatcherError] = []

    def forward(moment: Moment) -> None:
        try:
            progress(moment)
        except passing:
            raise
        except Exception as error:
            failures.append(WatcherError(error))
            raise failures[-1] from error

    try:
        return run(forward)
    except WatcherError as failure:
        if failure not in failures:
            raise
        cause = failure.cause
    # The exception is raised outside the handler. Otherwise Python would replace its context.
    raise cause


def silent(moment: Moment) -> None:
    """Ignore a moment."""


def scale_progress(
    progress: Progress,
    start: float,
    fraction: float,
    *,
    evaluations: int = 0,
    finish: Callable[[Reconstruction], Reconstruction] | None = None,
    best: Best | None = None,
    objective: Callable[[float | None], float | None] | None = None,
) -> Progress:
    """Return a callback for one part of an attack.

    It scales the part's progress to that of the whole.

    The callback forwards each moment of the part to `progress`.

    Args:
        progress: The callback of the whole attack.
        start: Fraction of the whole that is done before the part, in [0, 1].
        fraction: Fraction of the whole that the part takes, in [0, 1].
        evaluations: Number of simulated updates before the part.
        finish: Turns a reconstruction of the part into one of the whole. By default it is
            unchanged.
        best: Builds the best reconstruction that was known before the part. It is used until the
            part has one of its own.
        objective: Turns the objective of the part into that of the whole. By default it is
            unchanged. Pass it if `finish` may return a reconstruction that is not from the part.
    """

    def tell(moment: Moment) -> None:
        check_moment(moment)
        found, inner = best, moment.best
        if inner is not None:
            found = inner if finish is None else lambda: finish(inner())
        shown = None if found is None else partial(_copy_of_best, found)
        progress(
            Moment(
                # The sum of the parts may exceed 1 by a rounding error.
                fraction=min(1.0, start + fraction * moment.fraction),
                evaluations=evaluations + moment.evaluations,
                objective=moment.objective if objective is None else objective(moment.objective),
                best=shown,
            )
        )

    return tell


def no_objective(objective: float | None) -> None:
    """Return None. Pass this function as `objective` if an attack chooses between results by another measure."""


def check_moment(moment: object, before: Moment | None = None) -> None:
    """Raise AttackError unless `moment` is a Moment whose fraction did not fall.

    Args:
        moment: The object that the attack passed to its callback.
        before: The previous moment, or None for the first one.
    """
    if not isinstance(moment, Moment):
        raise AttackError(
            f"progress: expected a Moment; found an object of type {type(moment).__name__}"
        )
    if before is not None and moment.fraction < before.fraction - ROUNDING:
        raise AttackError(
            f"progress: expected fractions that never fall; found {moment.fraction:g} after "
            f"{before.fraction:g}"
        )


def _copy_of_best(best: Best) -> Reconstruction:
    """Return the best reconstruction so far as a copy, since a callback may overwrite it."""
    found = best()
    if not isinstance(found, Reconstruction):
        raise AttackError(
            f"best of a moment: expected a Reconstruction; found an object of type {type(found).__name__}"
        )
    return found.apart()
