"""Quantiles of scores. A mean of decibels says little, and one infinite PSNR would make it infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable


def quantile(values: Iterable[float | None], fraction: float) -> float | None:
    """Return the quantile at `fraction` in [0, 1], or None if there are no values.

    The result is interpolated between two neighboring values. If one is infinite, the nearer value is returned.
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    place = fraction * (len(known) - 1)
    low, high = known[math.floor(place)], known[math.ceil(place)]
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        # Interpolation with an infinite value would give an infinity or NaN.
        return low if place - math.floor(place) < 0.5 else high
    return low + (high - low) * (place - math.floor(place))


def median(values: Iterable[float | None]) -> float | None:
    """Return the median, or None if there are no values."""
    return quantile(values, 0.5)
