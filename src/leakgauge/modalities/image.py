"""The modality of images: scores of error, structure and perception, shown as pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from leakgauge import metrics
from leakgauge.core import DataError, Domain
from leakgauge.metrics.leak import IMAGE_RULE, LeakRule
from leakgauge.modalities.modality import Content, Layout, Metric, Modality, Save
from leakgauge.modalities.unknown import DECIBELS, ERRORS
from leakgauge.models import perceptual
from leakgauge.records import Headline, Sides


class ImageModality(Modality):
    """The modality of images, with PSNR, SSIM, spectra, and LPIPS if its weights are found.

    The headline is PSNR in dB. An image leaked if it satisfies the rule "image above control".

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> modality = lg.modalities.ImageModality()
        >>> sorted(modality.metrics(data.domain, data.inputs[:0]))
        ['fft2d', 'mse', 'psnr', 'ssim']
    """

    headline: ClassVar[Headline] = DECIBELS
    layout: ClassVar[Layout] = "pictures"
    rule: ClassVar[LeakRule | None] = IMAGE_RULE

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        """Return the metrics of images, by name.

        These are errors, SSIM and FFT2D. MS-SSIM is added if its five scales fit. LPIPS is added if it
        can read the images and its weights are found. Identification is added if there are decoys.

        Args:
            domain: A domain of shape (C, H, W).
            decoys: Other images (N, C, H, W), possibly none.

        Raises:
            DataError: The domain has another shape.
        """
        if len(domain.shape) != 3:
            raise DataError(
                "images",
                expected="a domain of shape (C, H, W)",
                found=f"one of shape {tuple(domain.shape)}",
                remedy="give the domain another kind, or a shape (C, H, W)",
            )
        decoys = domain.to_unit(decoys)
        chosen: dict[str, Metric] = {**ERRORS, "ssim": metrics.ssim, "fft2d": metrics.fft2d}
        if min(domain.shape[1:]) >= metrics.MS_SSIM_SIDE:
            chosen["ms_ssim"] = metrics.ms_ssim
        if len(decoys):
            chosen["iip_pixels"] = partial(metrics.identified, decoys=decoys)
        if no_lpips(domain) is None:
            deep = perceptual.lpips_squeeze()
            chosen["lpips_squeeze"] = deep
            if len(decoys):
                embed = Remembering(deep.embed)
                chosen["iip_squeeze"] = partial(metrics.identified, decoys=decoys, embed=embed)
        return chosen

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Save each image as a PNG, and return the paths."""
        paths = {
            side: tuple(save(f"{side}-{i}.png", picture(image)) for i, image in enumerate(images))
            for side, images in sides.items()
        }
        return Content(images=Sides(**paths))

    def glance(self, examples: Tensor) -> bytes | None:
        """Return one PNG of the first images."""
        return picture(tile(examples))

    def compared_by(self, domain: Domain) -> str | None:
        """Return the name of the network of LPIPS, or the reason why LPIPS cannot score these images."""
        return (
            no_lpips(domain) or "LPIPS by SqueezeNet 1.1 (ImageNet), learned weights of version 0.1"
        )


def no_lpips(domain: Domain) -> str | None:
    """Return why LPIPS cannot score these images, or None if it can."""
    side = metrics.LPIPS_SIDE
    if domain.shape[0] not in (1, 3) or min(domain.shape[1:]) < side:
        return (
            f"no LPIPS: it reads only images of 1 or 3 channels and at least {side} pixels a side"
        )
    return None if perceptual.has_lpips() else "no LPIPS: its weights were not found"


class Remembering:
    """A function for features of inputs that computes each input only once.

    A reconstruction and its control are compared with the same decoys.

    Args:
        embed: The function from inputs (N, C, H, W) to features (N, D).
    """

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self.embed = embed
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.one(x[None]) for x in inputs])

    def one(self, x: Tensor) -> Tensor:
        """Return features (1, D) of one input `(1, *shape)`."""
        key = sha256(x.numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.embed(x)
        return self.known[key]


def picture(image: Tensor) -> bytes:
    """Return a PNG of one image (C, H, W) in [0, 1]: gray for C = 1, color for C = 3, else the mean of channels."""
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdim=True)
    pixels = (image.detach().cpu().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def tile(images: Tensor, *, most: int = 4) -> Tensor:
    """Return the first `most` images of (B, C, H, W) in one picture, with two in a row if there are over two."""
    shown = list(images[:most])
    if len(shown) < 3:
        return torch.cat(shown, dim=-1)
    if len(shown) % 2:
        shown.append(torch.ones_like(shown[0]))
    rows = [torch.cat(shown[i : i + 2], dim=-1) for i in range(0, len(shown), 2)]
    return torch.cat(rows, dim=-2)
