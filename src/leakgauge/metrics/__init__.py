"""Metrics of leakage: one value for each example, from originals and their reconstructions.

Functions take originals and reconstructions `(B, *shape)` in unit coordinates, and return float64
values (B,) on the CPU. All values are finite. A reconstruction with a NaN or infinite entry gets
the worst value.

Metrics import only `leakgauge.core`.
"""

from leakgauge.metrics.assignment import assign
from leakgauge.metrics.blocks import BLOCKINESS_CEILING, blockiness
from leakgauge.metrics.examples import (
    COLUMN_TOLERANCE,
    MSE_CEILING,
    PSNR_CEILING,
    columns_read,
    label_match,
    mse,
    psnr,
)
from leakgauge.metrics.frequency import fft2d
from leakgauge.metrics.identifiability import identified
from leakgauge.metrics.lpips import LPIPS_SIDE, Heads, LpipsSqueeze
from leakgauge.metrics.multiscale import MS_SSIM_SIDE, ms_ssim
from leakgauge.metrics.similarity import ssim
from leakgauge.metrics.squeezenet import SqueezeNet
from leakgauge.metrics.summary import Closer, Summary, summarize
from leakgauge.metrics.text import (
    Rouge,
    assign_tokens,
    batch_bag,
    exact,
    no_rouge,
    rouge,
    token_accuracy,
    token_bag,
)

CLOSER: dict[str, Closer] = {
    "batch_bag": "higher",
    "columns_read": "higher",
    "exact": "higher",
    "fft2d": "lower",
    "iip_pixels": "higher",
    "iip_squeeze": "higher",
    "label_match": "higher",
    "lpips_squeeze": "lower",
    "ms_ssim": "higher",
    "mse": "lower",
    "psnr": "higher",
    "rouge1": "higher",
    "rouge2": "higher",
    "rouge_l": "higher",
    "ssim": "higher",
    "token_accuracy": "higher",
    "token_bag": "higher",
}
"""Direction in which a metric leaks more, by its name in a record.

`iip_pixels` and `iip_squeeze` are values of `identified`, by the squared error of pixels and by SqueezeNet's features.
`lpips_squeeze` is the value of an `LpipsSqueeze` with the learned weights. `rouge1`, `rouge2` and `rouge_l` are values
of `rouge`.
"""

__all__ = [
    "BLOCKINESS_CEILING",
    "CLOSER",
    "COLUMN_TOLERANCE",
    "LPIPS_SIDE",
    "MSE_CEILING",
    "MS_SSIM_SIDE",
    "PSNR_CEILING",
    "Closer",
    "Heads",
    "LpipsSqueeze",
    "Rouge",
    "SqueezeNet",
    "Summary",
    "assign",
    "assign_tokens",
    "batch_bag",
    "blockiness",
    "columns_read",
    "exact",
    "fft2d",
    "identified",
    "label_match",
    "ms_ssim",
    "mse",
    "no_rouge",
    "psnr",
    "rouge",
    "ssim",
    "summarize",
    "token_accuracy",
    "token_bag",
]
