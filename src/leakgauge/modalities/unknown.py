"""The modality of all other kinds of data: scored by errors in unit coordinates, never judged."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Domain
from leakgauge.modalities.modality import Layout, Metric, Modality
from leakgauge.records import Headline

ERRORS: dict[str, Metric] = {"mse": metrics.mse, "psnr": metrics.psnr}
"""Errors that are meaningful for any data with unit coordinates."""
DECIBELS = Headline(
    metric="psnr",
    heading="PSNR",
    title="PSNR, dB",
    unit="dB",
    format="decibels",
    better="higher",
    reads="reconstructed at {score}",
    reads_exactly="reconstructed exactly",
)


class UnknownModality(Modality):
    """The modality of any other data: scored by errors, without a rule for leaks, and not shown.

    Example:
        >>> import leakgauge as lg
        >>> lg.modalities.UnknownModality().rule is None
        True
    """

    headline: ClassVar[Headline] = DECIBELS
    layout: ClassVar[Layout] = "pictures"

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        """Return the errors in unit coordinates, by name."""
        return ERRORS
