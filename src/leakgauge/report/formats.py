"""Texts and axes of headline scores, one class for each format that a record may name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakgauge.records import Headline
from leakgauge.report.wording import MISSING, decibels, percent, plain

SWEEP_LIMIT = 100.0
"""Highest end of a sweep's axis, in dB. Copies above it look exact, and a longer axis would squeeze the others."""
SWEEP_LEAST = 30.0
"""Lowest end of a sweep's axis, in dB."""
FRONTIER_LIMIT = 60.0
"""Distance to the control, in dB. The frontier draws all copies beyond it at the top, since they look exact."""
LEAST = 1e-300
"""The axis of plain numbers ends at 1 if every score is smaller than this."""
TICKS = 5
"""Largest number of steps on an axis of plain numbers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis that begins at 0.

    Args:
        top: Its end, in the score's unit.
        step: Distance between ticks, in the same unit.
        limit: All values from this one on are drawn at the same height. None if there is no limit.
    """

    top: float
    step: float
    limit: float | None = None


class Format(ABC):
    """Texts and axes of the scores of one format."""

    @abstractmethod
    def text(self, value: float | None) -> str:
        """Return a score with its unit."""

    @abstractmethod
    def short(self, value: float) -> str:
        """Return a score without its unit, for columns and figures that name the unit in their title."""

    @abstractmethod
    def tick(self, value: float) -> str:
        """Return the label of a tick."""

    @abstractmethod
    def read(self, value: float | None, headline: Headline) -> str:
        """Return the score of one example, with the unit of the headline."""

    def amount(self, value: float | None, unit: str) -> str:
        """Return a score for a sentence. `unit` is the unit of a difference of two scores."""
        return self.text(value)

    @abstractmethod
    def levels(self, values: Sequence[float]) -> Scale:
        """Return the axis for finite scores."""

    @abstractmethod
    def distances(self, values: Sequence[float]) -> Scale:
        """Return the axis for distances to the blind control, which are 0 or more."""

    def span(self, low: float | None, high: float | None) -> str:
        """Return a range of scores in which the unit stands once, such as 32.4–35.7 dB."""
        if low is None or high is None:
            return MISSING
        return f"{self.short(low)}\u2013{self.text(high)}"


class Decibels(Format):
    """Format of a PSNR, such as 31.2 dB. A perfect copy has an infinite PSNR, shown as "exact"."""

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
    """Format of a fraction in [0, 1], such as 67%."""

    def text(self, value: float | None) -> str:
        return percent(value)

    def short(self, value: float) -> str:
        return f"{100 * value:.0f}%"

    def tick(self, value: float) -> str:
        return f"{100 * value:.0f}%"

    def read(self, value: float | None, headline: Headline) -> str:
        # If a lower fraction leaks more, the fraction counts errors. "read" would then be wrong.
        what = "read" if headline.better == "higher" else headline.unit
        return f"{percent(value)} {what}".rstrip()

    def span(self, low: float | None, high: float | None) -> str:
        return super().span(low, high).replace("%", "", 1)

    def levels(self, values: Sequence[float]) -> Scale:
        return Scale(top=1.0, step=0.25)

    def distances(self, values: Sequence[float]) -> Scale:
        return Scale(top=1.0, step=0.25)


class Number(Format):
    """Format of any other number: three significant digits. Headings and sentences show its unit, cells do not."""

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
        # Smaller steps would be rounded to 0.
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
"""Formats by their names in a record's headline. If a run has several, the page prefers the first."""
