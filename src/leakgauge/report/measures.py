"""Metrics beside the headline, with their names and meanings for a reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leakgauge.records import Cell
from leakgauge.report.wording import fixed, percent, plain


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric of images other than PSNR, or of text other than the tokens that were read.

    Args:
        heading: Its name on the page.
        names: Its names in records, best first. An audit uses the first name that its record has.
        text: Function that returns a value in words.
        meaning: Its definition, for a reader.
        binary: Whether values are 0 or 1, so that the page shows their mean and not their median.
    """

    heading: str
    names: tuple[str, ...]
    text: Callable[[float | None], str]
    meaning: str
    binary: bool = False

    def name(self, cell: Cell) -> str | None:
        """Return the metric's name in the record of an audit, or None if the record lacks it."""
        return next((name for name in self.names if name in cell.scores), None)


SSIM = Measure(
    heading="SSIM",
    names=("ssim",),
    text=fixed,
    meaning="Structural similarity of two images. Higher is closer. 1 means identical.",
)
MS_SSIM = Measure(
    heading="MS-SSIM",
    names=("ms_ssim",),
    text=lambda value: fixed(value, 3),
    meaning="Structural similarity at five scales, for images of at least 161 pixels a side. It lies between 0 and 1."
    " 1 means identical.",
)
LPIPS = Measure(
    heading="LPIPS",
    names=("lpips_squeeze",),
    text=lambda value: fixed(value, 3),
    meaning="Learned perceptual distance of two images, from the activations of a SqueezeNet 1.1 trained"
    " on ImageNet. Lower is closer. 0 means identical. Other networks give other numbers.",
)
FFT2D = Measure(
    heading="FFT2D",
    names=("fft2d",),
    text=lambda value: plain(value, 2),
    meaning="Mean squared difference of the magnitudes of two images' spectra, with pixels scaled to"
    " [0, 1]. Lower is closer. It ignores where things are in the image.",
)
IIP = Measure(
    heading="IIP",
    names=("iip_squeeze", "iip_pixels"),
    text=percent,
    meaning="Image Identifiability Precision: the fraction of reconstructions that are nearer to their own"
    " original than to every other image. The other images are the rest of the batch and up to 100 that the client"
    " might have held. More images make this harder. If the audit has an LPIPS, features of its SqueezeNet"
    " give the distance. Otherwise the squared error does.",
    binary=True,
)
PLACED = Measure(
    heading="in place",
    names=("token_accuracy",),
    text=percent,
    meaning="Fraction of a sentence's tokens that were read at their place.",
)
WHOLE = Measure(
    heading="whole",
    names=("exact",),
    text=percent,
    meaning="Fraction of the sentences that were read whole, with every token at its place.",
    binary=True,
)
IN_BATCH = Measure(
    heading="in batch",
    names=("batch_bag",),
    text=percent,
    meaning="Fraction of a sentence's tokens that were read anywhere in the batch. An attack may know the tokens of a"
    " batch, but not to which sentence each belongs.",
)
ROUGE_1 = Measure(
    heading="ROUGE-1",
    names=("rouge1",),
    text=percent,
    meaning="Overlap of the words of two texts: the harmonic mean of precision and recall. 100% means the same words.",
)
ROUGE_2 = Measure(
    heading="ROUGE-2",
    names=("rouge2",),
    text=percent,
    meaning="The same overlap of pairs of neighboring words. 100% means the same pairs.",
)
ROUGE_L = Measure(
    heading="ROUGE-L",
    names=("rouge_l",),
    text=percent,
    meaning="The same overlap by the longest sequence of words that both texts hold in the same order. 100% means the"
    " same text.",
)
MEASURES = (SSIM, MS_SSIM, LPIPS, FFT2D, IIP, PLACED, WHOLE, IN_BATCH, ROUGE_1, ROUGE_2, ROUGE_L)
"""All measures, in their order on the page."""
