"""Order statistics: a mean of decibels says little, and one infinite PSNR would swallow it."""

from __future__ import annotations

import math
from collections.abc import Iterable


def quantile(values: Iterable[float | None], fraction: float) -> float | None:
    """The quantile at `share` in [0, 1], interpolated; None without values."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    place = fraction * (len(known) - 1)
    low, high = known[math.floor(place)], known[math.ceil(place)]
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        # Between a finite and an infinite value there is nothing to interpolate.
        return low if place - math.floor(place) < 0.5 else high
    return low + (high - low) * (place - math.floor(place))


def median(values: Iterable[float | None]) -> float | None:
    """The middle value; None without values."""
    return quantile(values, 0.5)
