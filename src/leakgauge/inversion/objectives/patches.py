"""The patch prior: a vision transformer sees patches, and what a search finds of each ends at its border.

    R(x) = mean_k ||x[P k] - x[P k - 1]|| / sqrt(n)     over the rows x[i] of each example, plus the same over columns

n values a row, P the patches' side. Hatamizadeh et al.: GradViT, CVPR 2022, whose norms are summed, not meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leakgauge.core import Inapplicable, Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, Term

ATTRIBUTE = "patch_size"
"""What transformers (in a model's config) and timm (in the embedding) call the side of a patch."""


@dataclass(frozen=True)
class PatchBorders(Term):
    """Root mean square difference of neighboring pixels across each border between patches, meant over borders.

    Images (B, C, H, W) of any channel count, patches `size` pixels a side. Norms are not squared, so
    that a border across which the image truly changes is not smoothed more than others.
    """

    local: ClassVar[bool] = True
    size: int

    def __call__(self, candidate: Candidate) -> Tensor:
        borders = (
            border_differences(candidate.unit, self.size),
            border_differences(candidate.unit.mT, self.size),
        )
        return torch.stack([_norms(border).mean() for border in borders if border.numel()]).sum()

    def inapplicable(self, observation: Observation) -> str | None:
        domain = observation.domain
        grid = image_grid(domain)
        if grid is None:
            return f"patches are of images, not of a {domain.kind}: set patch_prior = 0"
        _, height, width = grid
        if height % self.size or width % self.size or self.size >= max(height, width):
            return (
                f"patches of {self.size} pixels have no borders to compare in {height} x {width}: "
                "set patch = P, the side of patches that tile the image, or patch_prior = 0"
            )
        return None


def border_differences(images: Tensor, size: int) -> Tensor:
    """Differences (B, C, K, W) of the rows on both sides of each of K borders, of images (B, C, H, W)."""
    below, above = images[..., size::size, :], images[..., size - 1 : -1 : size, :]
    return below - above


def _norms(differences: Tensor) -> Tensor:
    """The root mean square (B, K) along each border, whose slope at zero is held at zero."""
    squares = differences.square().mean(dim=(1, 3))
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def patch_size(model: nn.Module, channels: int) -> int | Inapplicable:
    """Return the side of a model's patches in pixels, or the reason why it is not known.

    From the convolution of the image's channels whose stride is its kernel, else from an attribute
    `patch_size` of a module or of its config.
    """
    found = dict.fromkeys(_embeddings(model, channels)) or dict.fromkeys(_attributes(model))
    if not found:
        return Inapplicable(
            "no convolution of the image whose stride is its kernel, and no attribute "
            f"{ATTRIBUTE!r}: set patch = P, the side of the patches"
        )
    if len(found) > 1:
        several = " and ".join(f"{height} x {width}" for height, width in found)
        return Inapplicable(f"patches of {several}: set patch = P, the side of those to compare")
    ((height, width),) = found
    if height != width:
        return Inapplicable(
            f"patches of {height} x {width} pixels are not square: set patch_prior = 0"
        )
    return height


def _embeddings(model: nn.Module, channels: int) -> Iterator[tuple[int, int]]:
    """Kernels of convolutions that cut the image into patches."""
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.in_channels != channels:
            continue
        kernel = module.kernel_size
        if module.stride == kernel and max(kernel) > 1:
            yield kernel[0], kernel[1]


def _attributes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Sides that modules, or their configs, state."""
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            stated = getattr(holder, ATTRIBUTE, None)
            if isinstance(stated, int):
                yield stated, stated
            elif isinstance(stated, tuple | list) and len(stated) == 2:
                yield int(stated[0]), int(stated[1])
