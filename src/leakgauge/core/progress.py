"""What an attack under way tells: how far it is, its objective, and the best reconstruction so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leakgauge.core.errors import AttackError
from leakgauge.core.reconstruction import Reconstruction

Best = Callable[[], Reconstruction]
"""Return the best reconstruction so far. It is built when it is asked for, since that costs a simulated update."""


@dataclass(frozen=True)
class Moment:
    """One moment of an attack under way.

    Args:
        fraction: the part of the work that is done, in [0, 1]. It never falls.
        evaluations: simulated updates so far.
        objective: the attacker's own objective at the best iterate, or None if the attack has none.
        best: builds the best reconstruction so far. None as long as there is none.
    """

    fraction: float
    evaluations: int = 0
    objective: float | None = None
    best: Best | None = None


Progress = Callable[[Moment], None]
"""A callback that an attack calls from time to time. It may raise StopAttack to end the attack there."""


class StopAttack(Exception):
    """Raised by a `Progress` callback to end an attack. `Plan.run` then returns the best reconstruction so far."""


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
) -> Progress:
    """Return the callback of a part of an attack.

    Args:
        progress: the callback of the whole attack.
        start: the fraction of the whole that is done before the part, in [0, 1].
        fraction: the fraction of the whole that the part takes, in [0, 1].
        evaluations: simulated updates before the part.
        finish: makes a reconstruction of the whole from one of the part. By default they are the same.
        best: the best reconstruction before the part, told as long as the part has none.
    """

    def tell(moment: Moment) -> None:
        if not isinstance(moment, Moment):
            raise AttackError(
                f"progress: expected a Moment; found an object of type {type(moment).__name__}"
            )
        found, inner = best, moment.best
        if inner is not None:
            found = inner if finish is None else lambda: finish(inner())
        progress(
            Moment(
                fraction=start + fraction * moment.fraction,
                evaluations=evaluations + moment.evaluations,
                objective=moment.objective,
                best=found,
            )
        )

    return tell
