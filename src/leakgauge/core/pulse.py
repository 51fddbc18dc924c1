"""A sign of life from work whose length is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leakgauge.core.progress import Best, Moment, Progress

Beat = Callable[[], None]
"""A function that long work calls at least every few seconds."""


def quiet() -> None:
    """Do nothing."""


@dataclass(eq=False)
class Pulse:
    """A beat that moves the progress of an attack toward the end of a part, and never reaches it.

    Args:
        progress: The callback of the attack.
        usual: Number of beats of a usual part, at least 1. They move the progress over half of it.
        start: Fraction of the work that is done before the part, in [0, 1].
        end: Fraction that is done behind it, in [0, 1].
        evaluations: Number of simulated updates before the part.
        best: Builds the best reconstruction so far. None if there is none yet.

    Example:
        >>> from leakgauge.core.pulse import Pulse
        >>> shown: list[float] = []
        >>> beat = Pulse(lambda moment: shown.append(moment.fraction), usual=1)
        >>> beat.part(0.5)
        >>> beat(), beat()
        (None, None)
        >>> shown
        [0.0, 0.25, 0.3333333333333333]
    """

    progress: Progress
    usual: int
    start: float = 0.0
    end: float = 0.0
    evaluations: int = 0
    best: Best | None = None
    beats: int = 0

    def part(
        self,
        end: float,
        *,
        usual: int | None = None,
        evaluations: int = 0,
        best: Best | None = None,
    ) -> None:
        """Report that a part has ended, and start the next one.

        Args:
            end: Fraction that is done behind the next part. It never falls.
            usual: Number of beats of the next part. None, the default, keeps that of the last one.
            evaluations: Number of simulated updates so far.
            best: Builds the best reconstruction so far. None keeps the last one.
        """
        self.start, self.end, self.beats = self.end, max(self.end, end), 0
        self.usual = usual or self.usual
        self.evaluations = max(self.evaluations, evaluations)
        self.best = best or self.best
        self.progress(Moment(self.start, self.evaluations, best=self.best))

    def __call__(self) -> None:
        """Move the progress a little."""
        self.beats += 1
        done = self.beats / (self.beats + self.usual)
        fraction = self.start + (self.end - self.start) * done
        self.progress(Moment(fraction, self.evaluations, best=self.best))
