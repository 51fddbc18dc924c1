"""Distance of images by their spectra, as gradient inversion's papers report it (Yin et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.metrics.examples import MSE_CEILING
from leakgauge.metrics.pairs import images


def fft2d(truth: Tensor, guess: Tensor) -> Tensor:
    """FFT2D: mean squared difference of the magnitudes of 2D spectra: (B, C, H, W) twice to (B,).

    mean over channels and frequencies of (|F x| - |F y|)^2, F the orthonormal discrete transform: in
    the unit of `mse`, and at most that, as magnitudes do not see where things are (an image that is
    shifted around its edge scores 0). From 0 to MSE_CEILING, which a guess that is not finite
    scores. Yin et al. 2021 (GradInversion) report a number of this name and give, as far as we could
    find, no formula: compare ours with ours alone. Raises DataError as `ssim` does.
    """
    truth, guess = images(truth, guess, "fft2d")
    # An infinite entry would make a spectrum of NaN; both end at the ceiling.
    apart = torch.fft.fft2(truth, norm="ortho").abs() - torch.fft.fft2(guess, norm="ortho").abs()
    means: Tensor = apart.square().flatten(1).mean(1)
    return means.nan_to_num(nan=MSE_CEILING).clamp(max=MSE_CEILING)
