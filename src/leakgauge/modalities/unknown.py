"""Data of a kind that no modality is known for: scored by errors in unit coordinates, never judged."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Domain
from leakgauge.modalities.modality import Layout, Metric, Modality
from leakgauge.records import Headline

ERRORS: dict[str, Metric] = {"mse": metrics.mse, "psnr": metrics.psnr}
"""Errors that mean something wherever unit coordinates do."""
DECIBELS = Headline(
    metric="psnr",
    heading="PSNR",
    title="PSNR, dB",
    unit="dB",
    format="decibels",
    better="higher",
    reads="rebuilt at {score}",
    reads_exactly="rebuilt exactly",
)


class UnknownModality(Modality):
    """Score by error alone. There is no rule for leaks, and nothing to look at."""

    headline: ClassVar[Headline] = DECIBELS
    layout: ClassVar[Layout] = "pictures"

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        return ERRORS
