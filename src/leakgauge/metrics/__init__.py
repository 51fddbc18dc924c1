"""What leaked: per-example values of reconstructions against originals. Sees core only.

Functions take truth and guess in unit coordinates (B, *shape) and return float64 (B,) on the CPU.
CLOSER says, for each, which values mean that more has leaked. A guess with a NaN or infinite entry
is scored as the worst there is; no function returns a value that is not finite.
"""

from leakgauge.metrics.assignment import assign
from leakgauge.metrics.examples import (
    MSE_CEILING,
    PSNR_CEILING,
    columns_read,
    label_match,
    mse,
    psnr,
)
from leakgauge.metrics.similarity import ssim
from leakgauge.metrics.summary import Closer, Summary, summarize

CLOSER: dict[str, Closer] = {
    "columns_read": "higher",
    "label_match": "higher",
    "mse": "lower",
    "psnr": "higher",
    "ssim": "higher",
}

__all__ = [
    "CLOSER",
    "MSE_CEILING",
    "PSNR_CEILING",
    "Closer",
    "Summary",
    "assign",
    "columns_read",
    "label_match",
    "mse",
    "psnr",
    "ssim",
    "summarize",
]
