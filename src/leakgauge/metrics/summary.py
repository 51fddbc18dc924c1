"""Summaries of one metric over several examples. This is the last step: metrics themselves never reduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import DataError

Closer = Literal["higher", "lower"]
"""Direction in which a metric says that the reconstruction is closer to the original."""


@dataclass(frozen=True)
class Summary:
    """The distribution of one metric over examples.

    `summarize` makes it.

    Args:
        median: The median.
        q10: The 10% quantile, linearly interpolated.
        q90: The 90% quantile, linearly interpolated.
        worst: Value of the example that leaked most.
        count: Number of examples.
        threshold: Value from which an example counts as a success, in the metric's unit, or None.
        success: Fraction of examples that leaked at least as much as the threshold, or None without
            a threshold.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> summary = lg.metrics.summarize(torch.tensor([10.0, 20.0, 30.0]), threshold=20.0)
        >>> summary.median, summary.worst, round(summary.success, 2)
        (20.0, 30.0, 0.67)
    """

    median: float
    q10: float
    q90: float
    worst: float
    count: int
    threshold: float | None = None
    success: float | None = None


def summarize(
    values: Tensor, *, threshold: float | None = None, closer: Closer = "higher"
) -> Summary:
    """Return the summary of a metric's values.

    Args:
        values: Values (B,), at least one, all finite.
        threshold: Value from which an example counts as a success, itself included, in the metric's
            unit.
        closer: Direction in which the metric leaks more, see `CLOSER`. It decides which value is
            the worst, and on which side of the threshold success lies.

    Raises:
        DataError: There is no value, the shape is not (B,), a value is not finite, or `closer` is
            unknown.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> lg.metrics.summarize(torch.tensor([10.0, 20.0, 30.0]), closer="lower").worst
        10.0
    """
    flat = values.detach().to("cpu", torch.float64)
    if flat.ndim != 1 or len(flat) == 0 or not bool(torch.isfinite(flat).all()):
        raise DataError(
            "summary",
            expected="at least one finite value, of shape (B,)",
            found=f"shape {tuple(flat.shape)}, {int((~torch.isfinite(flat)).sum())} not finite",
            remedy="pass the values that a metric returned",
        )
    if closer not in ("higher", "lower"):
        raise DataError(
            "summary",
            expected='closer "higher" or "lower"',
            found=repr(closer),
            remedy="see metrics.CLOSER",
        )
    q10, median, q90 = torch.quantile(flat, flat.new_tensor([0.1, 0.5, 0.9])).tolist()
    success = None
    if threshold is not None:
        reached = flat >= threshold if closer == "higher" else flat <= threshold
        success = float(reached.double().mean())
    worst = float(flat.max() if closer == "higher" else flat.min())
    return Summary(median, q10, q90, worst, len(flat), threshold, success)
