"""How headline scores read and on which axes they are drawn: one entry for each format that a record may name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakgauge.records import Headline
from leakgauge.report.wording import MISSING, decibels, percent, plain

SWEEP_LIMIT = 100.0
"""Decibels at which the axis of a sweep ends. Past it every copy looks exact, and a longer axis squeezes the rest."""
SWEEP_LEAST = 30.0
"""Least decibels at the top of that axis."""
FRONTIER_LIMIT = 60.0
"""Decibels above control from where a copy is as good as exact."""
LEAST = 1e-300
"""Largest score of an axis of its own. One of less ends at 1, so that every score stands at 0."""
TICKS = 5
"""Most steps of an axis of plain numbers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from 0.

    Args:
        top: where it ends, in the score's unit.
        step: distance of its ticks, in the same unit.
        limit: the value at whose tick everything larger is drawn too, or None if nothing is larger.
    """

    top: float
    step: float
    limit: float | None = None


class Format(ABC):
    """How scores of one format read and are drawn."""

    @abstractmethod
    def text(self, value: float | None) -> str:
        """Return a score with its unit."""

    @abstractmethod
    def short(self, value: float) -> str:
        """Return a score without its unit, for columns and figures that name the unit once."""

    @abstractmethod
    def tick(self, value: float) -> str:
        """Return the label of a tick."""

    @abstractmethod
    def read(self, value: float | None, headline: Headline) -> str:
        """Return how much of one example was read, in the unit of the headline."""

    def amount(self, value: float | None, unit: str) -> str:
        """Return a score for a sentence. `unit`: what a difference of two scores counts."""
        return self.text(value)

    @abstractmethod
    def levels(self, values: Sequence[float]) -> Scale:
        """Return the axis of finite scores."""

    @abstractmethod
    def distances(self, values: Sequence[float]) -> Scale:
        """Return the axis of distances to the blind control, 0 or more."""

    def span(self, low: float | None, high: float | None) -> str:
        """Return a range of scores with its unit once, such as 32.4–35.7 dB."""
        if low is None or high is None:
            return MISSING
        return f"{self.short(low)}\u2013{self.text(high)}"


class Decibels(Format):
    """A PSNR: 31.2 dB. A perfect copy has no finite one."""

    def text(self, value: float | None) -> str:
        return decibels(value)

    def short(self, value: float) -> str:
        return "exact" if math.isinf(value) else f"{value:.1f}"

    def tick(self, value: float) -> str:
        return plain(value)

    def read(self, value: float | None, headline: Headline) -> str:
        return decibels(value)

    def levels(self, values: Sequence[float]) -> Scale:
        highest = min(max([*values, SWEEP_LEAST]), SWEEP_LIMIT)
        step = 10.0 if highest <= 70 else 20.0
        return Scale(top=step * math.ceil(highest / step), step=step)

    def distances(self, values: Sequence[float]) -> Scale:
        highest = max(min(value, FRONTIER_LIMIT) for value in values)
        top = max(10.0, 10 * math.ceil(highest / 10))
        return Scale(top=top, step=5.0 if top <= 20 else 10.0, limit=FRONTIER_LIMIT)

    def span(self, low: float | None, high: float | None) -> str:
        if low is not None and high is not None and not math.isfinite(low):
            return decibels(low)
        return super().span(low, high)


class Percent(Format):
    """A fraction in [0, 1]: 67%."""

    def text(self, value: float | None) -> str:
        return percent(value)

    def short(self, value: float) -> str:
        return f"{100 * value:.0f}%"

    def tick(self, value: float) -> str:
        return f"{100 * value:.0f}%"

    def read(self, value: float | None, headline: Headline) -> str:
        # A fraction of which less is better counts errors, so that nothing of it was read.
        what = "read" if headline.better == "higher" else headline.unit
        return f"{percent(value)} {what}".rstrip()

    def span(self, low: float | None, high: float | None) -> str:
        return super().span(low, high).replace("%", "", 1)

    def levels(self, values: Sequence[float]) -> Scale:
        return Scale(top=1.0, step=0.25)

    def distances(self, values: Sequence[float]) -> Scale:
        return Scale(top=1.0, step=0.25)


class Number(Format):
    """Any other number, in three significant digits. Its unit stands in headings and in sentences, not in cells."""

    def text(self, value: float | None) -> str:
        return plain(value)

    def short(self, value: float) -> str:
        return plain(value)

    def tick(self, value: float) -> str:
        return plain(value)

    def read(self, value: float | None, headline: Headline) -> str:
        return self.amount(value, headline.unit)

    def amount(self, value: float | None, unit: str) -> str:
        return MISSING if value is None else f"{plain(value)} {unit}".rstrip()

    def levels(self, values: Sequence[float]) -> Scale:
        highest = max([*values, 0.0])
        # Smaller steps would be rounded to 0, as would all that is drawn along them.
        if highest < LEAST:
            highest = 1.0
        rough = highest / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
        return Scale(top=step * math.ceil(highest / step - 1e-9), step=step)

    def distances(self, values: Sequence[float]) -> Scale:
        return self.levels([value for value in values if math.isfinite(value)])


FORMATS: Mapping[str, Format] = {
    "decibels": Decibels(),
    "percent": Percent(),
    "number": Number(),
}
"""By the name in a record's headline. What stands first is told first where a run holds several."""
