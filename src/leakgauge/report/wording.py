"""Numbers and names in the words that a reader sees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from leakgauge.records import Cell, Column, Headline

MISSING = "\u2013"

GRANTABLE = ("batch_size", "labels", "label_counts", "defense")
"""Knowledge that a threat model can grant. The page also names the knowledge that was not granted."""
LOCAL = ("order", "hyperparameters")
"""Knowledge that a threat model can grant. It matters only for updates of several local steps."""

REMEDIES = {
    "unconverged": "The update is not matched. More steps or restarts could reconstruct more.",
    "diverged": "The objective became non-finite. A smaller step could reconstruct more.",
}
"""Advice by status, for attacks without a message of their own."""

STATUS_MEANINGS = {
    "certified": "An exact method proves the whole batch, and the residual is at most 1e-4.",
    "converged": "The update is matched: the residual is at most 1e-3, without a proof of the batch.",
    "unconverged": "The update is not matched, or not known to be. This says little about safety.",
    "diverged": "The attack's objective became non-finite. This says little about safety.",
    "inapplicable": "A condition of the attack does not hold here, so it did not run.",
    "no signal": "Every entry of the update is 0, so nothing was observed. This shows neither leakage nor safety.",
    "failed": "An exception ended the audit. This shows neither leakage nor safety.",
}
"""What each status means, in sentences for a reader."""


def decibels(value: float | None) -> str:
    """Return a PSNR with its unit. An infinite PSNR, that of a perfect copy, is "exact"."""
    if value is None:
        return MISSING
    return f"{value:.1f} dB" if math.isfinite(value) else ("exact" if value > 0 else MISSING)


def percent(value: float | None) -> str:
    """Return a fraction in [0, 1] as a percentage."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"


def plain(value: float | str | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and a short exponent. A string stays unchanged."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    mantissa, mark, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


def fixed(value: float | None, decimals: int = 2) -> str:
    """Return a number with `decimals` decimals."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def count(value: int | None) -> str:
    """Return an integer with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Return a duration, given in seconds, in seconds, minutes or hours."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def rate(value: float | None) -> str:
    """Return an accuracy in [0, 1] as a percentage with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}%"


def lost(fraction: float | None) -> str:
    """Return the change of accuracy in percentage points. A loss has a minus, a gain a plus.

    Args:
        fraction: Accuracy lost, in [-1, 1].
    """
    if fraction is None:
        return MISSING
    text = f"{-100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def points(fraction: float) -> str:
    """Return a difference of accuracies, given as a fraction, in percentage points."""
    text = f"{100 * fraction:.1f}".removesuffix(".0")
    return f"{text} point" if text == "1" else f"{text} points"


def size(count_: float | None) -> str:
    """Return a number of bytes in B, kB, MB or GB."""
    if count_ is None:
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_ >= factor:
            return f"{plain(count_ / factor)} {unit}"
    return f"{count_:.0f} B"


def measured(value: float | None, column: Column) -> str:
    """Return a value of a table with its column's decimals and unit."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{column.decimals}f} {column.unit}".rstrip()


def plural(number: int, noun: str) -> str:
    """Return a count and its noun, with an s unless the count is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def knowledge(cell: Cell) -> tuple[list[str], list[str]]:
    """Return the adversary's knowledge and the knowledge that it lacks, in words."""
    several = not cell.protocol.single
    known = [
        *cell.threat.always,
        *(name for name in cell.threat.grants if several or name not in LOCAL),
    ]
    # An adversary that knows the labels knows their counts too.
    implied = {"label_counts"} if "labels" in known else set()
    grantable = (*GRANTABLE, *LOCAL) if several else GRANTABLE
    withheld = [name for name in grantable if name not in known and name not in implied]
    return _spoken(known), _spoken(withheld)


def setting(cell: Cell) -> str:
    """Return a defense with its strength, such as `gaussian_noise, std = 0.01`."""
    if cell.undefended:
        return "none"
    defense = cell.defense
    if defense.setting is None:
        return defense.name
    return f"{defense.name}, {defense.strength_name or 'strength'} = {plain(defense.setting)}"


def listed(items: Sequence[str], most: int = 4) -> str:
    """Return the first `most` items, and the number of the others: `a; b; c; d and 2 more`."""
    shown, rest = items[:most], len(items) - most
    return "; ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def together(items: Iterable[str]) -> str:
    """Return `one`, `one and two`, or `one, two and three`. Return `none` if there are no items."""
    *before, last = list(items) or ["none"]
    return f"{', '.join(before)} and {last}" if before else last


def remedy(cell: Cell) -> str:
    """Return the attack's message. If it has none, return advice for its status."""
    return cell.message or REMEDIES.get(cell.status, "")


def beyond(headlines: Iterable[Headline]) -> str:
    """Return the side of the blind control's score where leakage shows: "above", "below", or "beyond" for both."""
    sides = {"above" if headline.better == "higher" else "below" for headline in headlines}
    return "beyond" if len(sides) == 2 else next(iter(sides), "above")


def scores(cells: Iterable[Cell]) -> str:
    """Return the name of a run's headline score. If there are several, each is followed by its kinds of data."""
    kinds: dict[str, dict[str, None]] = {}
    for cell in cells:
        kinds.setdefault(score(cell.data.headline), {})[f"{cell.data.kind.removesuffix('s')}s"] = (
            None
        )
    if len(kinds) < 2:
        return "".join(kinds)
    return together(f"{name} for {together(data)}" for name, data in kinds.items())


def score(headline: Headline) -> str:
    """Return the name of a headline's score for a sentence, such as `PSNR` or `the fraction of columns read`."""
    name = headline.title.removesuffix(f", {headline.unit}")
    if headline.format == "percent":
        name = f"the fraction of {name}"
    elif headline.format == "number" and name != headline.title:
        name += f" in {headline.unit}"
    return name if headline.better == "higher" else f"{name} (lower leaks more)"


def _spoken(names: Sequence[str]) -> list[str]:
    """Return names with spaces instead of underscores."""
    return [name.replace("_", " ") for name in names]
