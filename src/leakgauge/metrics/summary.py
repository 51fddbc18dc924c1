"""Per-example values in a few numbers. The last step: metrics themselves never reduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leakgauge.core import DataError

Closer = Literal["higher", "lower"]
"""Which values of a metric mean that the guess is closer to the truth."""


@dataclass(frozen=True)
class Summary:
    """How one metric is spread over examples.

    median, q10, q90: quantiles of the values (10 and 90 percent), linearly interpolated. worst: of
    the example that leaked most. success: share of examples that leaked at least as much as the
    threshold, in [0, 1]; None without a threshold.
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
    """The summary of a metric's values (B,).

    closer: whether higher or lower values leak more, see CLOSER; it decides `worst`, and on which
    side of the threshold (in the metric's unit, itself included) success lies. Raises DataError for
    no values, another shape, values that are not finite, and another `closer`.
    """
    flat = values.detach().to("cpu", torch.float64)
    if flat.ndim != 1 or len(flat) == 0 or not bool(torch.isfinite(flat).all()):
        raise DataError(
            "summary",
            expected="at least one finite value, of shape (B,)",
            found=f"shape {tuple(flat.shape)}, {int((~torch.isfinite(flat)).sum())} not finite",
            remedy="summarize what a metric returned",
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
