"""The patch prior, and where a model states the side of its patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leakgauge.core import Inapplicable, Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, Term

ATTRIBUTE = "patch_size"
"""Name of the side of a patch in transformers (a model's config) and in timm (the embedding)."""


@dataclass(frozen=True)
class PatchBorders(Term):
    r"""Prior: images should not jump at the borders of a vision transformer's patches.

    .. math::

        \operatorname{mean}_k \frac{1}{\sqrt{n}} \left\| x_{[P k]} - x_{[P k - 1]} \right\|

    Here :math:`x_{[i]}` is row :math:`i` of an image, with :math:`n` values in a row, and :math:`P`
    the side of a patch. The mean is over the borders :math:`k` between patches and over the batch. The same
    term over the columns is added.

    Use it on images (B, C, H, W) and a model that sees patches. The search finds each patch
    separately, so edges appear at the borders. The norms are not squared, so a border where the
    image itself changes is not smoothed more than others.

    Args:
        size: Side of a patch in pixels.

    References:
        Hatamizadeh, Yin, Roth, Li, Kautz, Xu, Molchanov. GradViT: Gradient Inversion of Vision
        Transformers. CVPR 2022. arXiv:2203.11894. The paper sums the norms; here their mean is
        taken.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, PatchBorders
        >>> image = torch.zeros(1, 1, 4, 4)
        >>> image[..., 2:] = 1.0
        >>> PatchBorders(size=2)(Candidate(image, torch.zeros(1), {}, {}))
        tensor(1.)
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
            return f"the patch prior needs images, and the domain is a {domain.kind}: set patch_prior = 0"
        _, height, width = grid
        if height % self.size or width % self.size or self.size >= max(height, width):
            return (
                f"patches of {self.size} pixels do not tile an image of {height} x {width} pixels: "
                "set patch = P, the side of patches that do, or patch_prior = 0"
            )
        return None


def border_differences(images: Tensor, size: int) -> Tensor:
    """Return the differences (B, C, K, W) of the rows at each of K borders, for images (B, C, H, W)."""
    below, above = images[..., size::size, :], images[..., size - 1 : -1 : size, :]
    return below - above


def _norms(differences: Tensor) -> Tensor:
    """Return the root mean square (B, K) along each border. Its slope at zero is set to zero."""
    squares = differences.square().mean(dim=(1, 3))
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def patch_size(model: nn.Module, channels: int) -> int | Inapplicable:
    """Return the side of a model's patches in pixels, or the reason why it is not known.

    The side is the kernel of a convolution on the image's channels whose stride equals its kernel.
    Without one, it is an attribute `patch_size` of a module or of its config.
    """
    found = dict.fromkeys(_embeddings(model, channels)) or dict.fromkeys(_attributes(model))
    if not found:
        return Inapplicable(
            "the model has no convolution of the image whose stride equals its kernel, and no attribute "
            f"{ATTRIBUTE!r}: set patch = P, the side of the patches"
        )
    if len(found) > 1:
        several = " and ".join(f"{height} x {width}" for height, width in found)
        return Inapplicable(
            f"the model has patches of {several}: set patch = P, the side of those to compare"
        )
    ((height, width),) = found
    if height != width:
        return Inapplicable(
            f"patches of {height} x {width} pixels are not square: set patch_prior = 0"
        )
    return height


def _embeddings(model: nn.Module, channels: int) -> Iterator[tuple[int, int]]:
    """Yield the kernels of convolutions that cut the image into patches."""
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.in_channels != channels:
            continue
        kernel = module.kernel_size
        if module.stride == kernel and max(kernel) > 1:
            yield kernel[0], kernel[1]


def _attributes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the sides of patches that modules or their configs state."""
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            stated = getattr(holder, ATTRIBUTE, None)
            if isinstance(stated, int):
                yield stated, stated
            elif isinstance(stated, tuple | list) and len(stated) == 2:
                yield int(stated[0]), int(stated[1])
