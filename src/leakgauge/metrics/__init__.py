"""What leaked: per-example values of reconstructions against originals. Sees core only.

Functions take truth and guess in unit coordinates (B, *shape) and return float64 (B,) on the CPU.
CLOSER says, for each name in a record, which values mean that more has leaked: `iip_pixels` and
`iip_squeeze` are what `identified` says by error and by SqueezeNet's features, `lpips_squeeze` is a
`LpipsSqueeze` with its weights. A guess with a NaN or infinite entry is scored as the worst there is;
no function returns a value that is not finite.
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

CLOSER: dict[str, Closer] = {
    "columns_read": "higher",
    "fft2d": "lower",
    "iip_pixels": "higher",
    "iip_squeeze": "higher",
    "label_match": "higher",
    "lpips_squeeze": "lower",
    "ms_ssim": "higher",
    "mse": "lower",
    "psnr": "higher",
    "ssim": "higher",
}

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
    "SqueezeNet",
    "Summary",
    "assign",
    "blockiness",
    "columns_read",
    "fft2d",
    "identified",
    "label_match",
    "ms_ssim",
    "mse",
    "psnr",
    "ssim",
    "summarize",
]
